//! Setting up a deployment and its hosts, and what stands in the way.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::SystemTime;

use crate::common::{DAY, expired, facts, identity, mode, pairs, self_signed};
use identity::{
    Authority, AuthorityError, AuthorityOutcome, Credentials, Fingerprint, HostIdentity, HostOutcome,
    IdentityError, InitError, Trust, TrustError, Validity, init_host,
};

#[tokio::test]
async fn two_hosts_set_up_with_one_ca_become_a_pair() {
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca");
    let host = |name: &str| {
        let own = dir.path().join(name);
        let report = init_host(&ca, &own, name).unwrap();
        let trust = Trust::Ca {
            bundle: report.ca.clone(),
        };
        (
            report,
            Credentials::new(HostIdentity::load(&own).unwrap(), &trust).unwrap(),
        )
    };
    let (phone_report, phone) = host("phone");
    let (server_report, server) = host("server");
    assert_eq!(phone_report.authority, AuthorityOutcome::Created);
    assert_eq!(server_report.authority, AuthorityOutcome::Loaded);
    assert_ne!(phone_report.agent, server_report.agent);
    let (at_phone, _) = pairs((&phone, facts()), (&server, facts())).await;
    assert_eq!(at_phone.peer, server_report.agent);
    assert_eq!(at_phone.peer_fingerprint, server_report.fingerprint);
}

#[test]
fn keys_are_for_their_owner_alone_and_certificates_for_all() {
    let dir = tempfile::tempdir().unwrap();
    let report = init_host(&dir.path().join("ca"), &dir.path().join("host"), "host").unwrap();
    assert_eq!(mode(&dir.path().join("ca")), 0o700);
    assert_eq!(mode(&dir.path().join("ca/ca.key")), 0o600);
    assert_eq!(mode(&report.key), 0o600);
    for public in [&report.certificate, &report.ca] {
        assert_eq!(mode(public), 0o644);
    }
    assert!(
        !fs::read_to_string(&report.certificate)
            .unwrap()
            .contains("PRIVATE")
    );
}

#[test]
fn the_identity_follows_from_the_key_and_is_a_spiffe_uri() {
    let issued = self_signed("host");
    assert!(issued.agent.as_str().starts_with("spiffe://mobility/agent/"));
    assert!(issued.agent.follows_from(&issued.fingerprint));
    assert_eq!(issued.agent.as_str().parse(), Ok(issued.agent.clone()));
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::create(dir.path(), Validity::of_authority()).unwrap();
    let other = authority
        .issue_in("fleet.example", "host", Validity::of_host())
        .unwrap();
    assert_eq!(other.agent.trust_domain(), "fleet.example");
    let printed = issued.fingerprint.to_string();
    assert_eq!(printed.len(), 64);
    let colons: Vec<_> = printed
        .as_bytes()
        .chunks(2)
        .map(|pair| std::str::from_utf8(pair).unwrap())
        .collect();
    for text in [
        printed.clone(),
        format!("sha256:{printed}"),
        colons.join(":").to_uppercase(),
    ] {
        assert_eq!(text.parse::<Fingerprint>(), Ok(issued.fingerprint));
    }
    for text in ["", "sha256:", &printed[1..], "zz"] {
        assert!(text.parse::<Fingerprint>().is_err());
    }
}

#[test]
fn what_is_no_agent_identity_is_refused() {
    let good = "spiffe://mobility/agent/01234567-89ab-8def-8123-456789abcdef";
    assert!(good.parse::<identity::AgentId>().is_ok());
    for text in [
        "",
        "spiffe://",
        "spiffe:///agent/01234567-89ab-8def-8123-456789abcdef",
        "https://mobility/agent/01234567-89ab-8def-8123-456789abcdef",
        "spiffe://mobility/server/01234567-89ab-8def-8123-456789abcdef",
        "spiffe://mobility/agent/01234567-89AB-8def-8123-456789abcdef",
        "spiffe://mobility/agent/0123456789ab8def8123456789abcdef",
        "spiffe://mobility/agent/01234567-89ab-8def-8123-456789abcdef/x",
        "spiffe://mob ility/agent/01234567-89ab-8def-8123-456789abcdef",
        "spiffe://Mobility/agent/01234567-89ab-8def-8123-456789abcdef",
    ] {
        assert!(text.parse::<identity::AgentId>().is_err(), "{text}");
    }
}

#[test]
fn a_second_run_keeps_everything() {
    let dir = tempfile::tempdir().unwrap();
    let (ca, own) = (dir.path().join("ca"), dir.path().join("host"));
    let first = init_host(&ca, &own, "host").unwrap();
    let files = || {
        [
            ca.join("ca.pem"),
            ca.join("ca.key"),
            own.join("host.pem"),
            own.join("host.key"),
            own.join("ca.pem"),
        ]
        .map(|path| fs::read(path).unwrap())
    };
    let before = files();
    let second = init_host(&ca, &own, "host").unwrap();
    assert_eq!(second.host, HostOutcome::Kept);
    assert_eq!(
        (second.agent, second.fingerprint),
        (first.agent, first.fingerprint)
    );
    assert_eq!(files(), before);
}

#[test]
fn a_certificate_at_its_end_is_renewed_for_the_same_key_and_identity() {
    let dir = tempfile::tempdir().unwrap();
    let (ca, own) = (dir.path().join("ca"), dir.path().join("host"));
    let authority = Authority::create(&ca, Validity::of_authority()).unwrap();
    for validity in [expired(), Validity::from_now(DAY)] {
        let _ = fs::remove_dir_all(&own);
        let issued = authority.issue("host", validity).unwrap();
        issued.write(&own).unwrap();
        let report = init_host(&ca, &own, "host").unwrap();
        assert_eq!(report.host, HostOutcome::Renewed);
        assert_eq!(
            (&report.agent, report.fingerprint),
            (&issued.agent, issued.fingerprint)
        );
        assert!(report.not_after > SystemTime::now() + 300 * DAY);
    }
}

#[test]
fn a_run_that_ended_between_key_and_certificate_is_completed() {
    let dir = tempfile::tempdir().unwrap();
    let (ca, own) = (dir.path().join("ca"), dir.path().join("host"));
    let first = init_host(&ca, &own, "host").unwrap();
    fs::remove_file(&first.certificate).unwrap();
    let second = init_host(&ca, &own, "host").unwrap();
    assert_eq!(second.host, HostOutcome::Renewed);
    assert_eq!(second.agent, first.agent);
}

#[test]
fn what_is_there_is_never_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let (ca, own) = (dir.path().join("ca"), dir.path().join("host"));
    let report = init_host(&ca, &own, "host").unwrap();
    let key = fs::read(&report.key).unwrap();

    let error = init_host(&ca, &own, "other").unwrap_err();
    assert!(matches!(error, InitError::OtherName { .. }), "{error}");
    let mistyped = dir.path().join("ca2");
    let error = init_host(&mistyped, &own, "host").unwrap_err();
    assert!(matches!(error, InitError::OtherAuthority { .. }), "{error}");
    assert!(!mistyped.exists(), "no CA is left behind");
    Authority::create(&mistyped, Validity::of_authority()).unwrap();
    let error = init_host(&mistyped, &own, "host").unwrap_err();
    assert!(matches!(error, InitError::OtherAuthority { .. }), "{error}");
    let error = Authority::create(&ca, Validity::of_authority()).unwrap_err();
    assert!(matches!(error, AuthorityError::Exists { .. }), "{error}");
    assert_eq!(fs::read(&report.key).unwrap(), key);

    fs::remove_file(&report.key).unwrap();
    let error = init_host(&ca, &own, "host").unwrap_err();
    assert!(matches!(error, InitError::KeyMissing { .. }), "{error}");
}

#[test]
fn a_ca_pem_of_another_ca_beside_the_host_stays_and_a_bundle_with_both_is_fine() {
    let dir = tempfile::tempdir().unwrap();
    let (ca, own) = (dir.path().join("ca"), dir.path().join("host"));
    let other = Authority::create(&dir.path().join("other"), Validity::of_authority()).unwrap();
    fs::create_dir(&own).unwrap();
    fs::write(own.join("ca.pem"), other.certificate_pem()).unwrap();
    let error = init_host(&ca, &own, "host").unwrap_err();
    assert!(matches!(error, InitError::OtherAuthority { .. }), "{error}");
    assert_eq!(
        fs::read_to_string(own.join("ca.pem")).unwrap(),
        other.certificate_pem()
    );

    let both = [
        other.certificate_pem(),
        &fs::read_to_string(ca.join("ca.pem")).unwrap(),
    ]
    .concat();
    fs::write(own.join("ca.pem"), &both).unwrap();
    init_host(&ca, &own, "host").unwrap();
    assert_eq!(fs::read_to_string(own.join("ca.pem")).unwrap(), both);
}

#[test]
fn keys_that_others_can_read_are_refused_with_the_command_that_helps() {
    let dir = tempfile::tempdir().unwrap();
    let (ca, own) = (dir.path().join("ca"), dir.path().join("host"));
    let report = init_host(&ca, &own, "host").unwrap();
    let expose = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    expose(&report.key);
    let error = HostIdentity::load(&own).unwrap_err();
    assert!(matches!(error, IdentityError::Exposed { .. }));
    assert!(
        error
            .to_string()
            .contains(&format!("chmod 600 {}", report.key.display())),
        "{error}"
    );
    expose(&ca.join("ca.key"));
    let error = Authority::load(&ca).unwrap_err();
    assert!(matches!(error, AuthorityError::Exposed { .. }), "{error}");
}

#[test]
fn a_host_identity_that_cannot_be_used_says_which_file_and_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let own = dir.path().join("host");
    let report = init_host(&dir.path().join("ca"), &own, "host").unwrap();
    let good = [
        fs::read(&report.certificate).unwrap(),
        fs::read(&report.key).unwrap(),
    ];
    let restore = || {
        fs::write(&report.certificate, &good[0]).unwrap();
        fs::write(&report.key, &good[1]).unwrap();
    };
    let refused = |what: &str| {
        let error = HostIdentity::load(&own).expect_err(what);
        restore();
        error
    };
    fs::remove_file(&report.certificate).unwrap();
    let error = refused("missing certificate");
    assert!(matches!(error, IdentityError::Read { .. }) && error.to_string().contains("host-agent init"));
    for garbage in [
        &b""[..],
        b"no PEM",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ] {
        fs::write(&report.certificate, garbage).unwrap();
        assert!(matches!(
            refused("damaged certificate"),
            IdentityError::Content { .. }
        ));
        fs::write(&report.key, garbage).unwrap();
        assert!(matches!(refused("damaged key"), IdentityError::Content { .. }));
    }
    fs::write(&report.key, self_signed("other").key_pem.as_bytes()).unwrap();
    assert!(matches!(
        refused("key of another"),
        IdentityError::OtherKey { .. }
    ));
    let ca = fs::read(&report.ca).unwrap();
    fs::write(&report.certificate, ca).unwrap();
    assert!(
        refused("the CA's certificate")
            .to_string()
            .contains("names no agent")
    );
    assert!(HostIdentity::load(&own).is_ok());
}

#[test]
fn a_host_identity_outside_its_time_is_refused_with_the_date() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::create(&dir.path().join("ca"), Validity::of_authority()).unwrap();
    let late = dir.path().join("late");
    authority.issue("late", expired()).unwrap().write(&late).unwrap();
    let error = HostIdentity::load(&late).unwrap_err();
    assert!(matches!(error, IdentityError::Expired { .. }));
    assert!(
        error.to_string().contains('T') && error.to_string().contains("renew"),
        "{error}"
    );
    assert_eq!(HostIdentity::load_at_any_time(&late).unwrap().name(), "late");

    let early = dir.path().join("early");
    let tomorrow = Validity {
        not_before: SystemTime::now() + DAY,
        not_after: SystemTime::now() + 2 * DAY,
    };
    authority.issue("early", tomorrow).unwrap().write(&early).unwrap();
    assert!(matches!(
        HostIdentity::load(&early).unwrap_err(),
        IdentityError::NotYetValid { .. }
    ));
}

#[test]
fn no_certificate_outlives_its_authority() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::create(dir.path(), Validity::from_now(2 * DAY)).unwrap();
    let issued = authority.issue("host", Validity::of_host()).unwrap();
    assert!(identity(&issued).not_after() <= SystemTime::now() + 2 * DAY);
}

#[test]
fn a_name_that_a_certificate_should_not_hold_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::create(dir.path(), Validity::of_authority()).unwrap();
    let long = "x".repeat(65);
    for name in ["", "two words", "tab\t", "ünï", "a/b", &long] {
        let error = authority.issue(name, Validity::of_host()).unwrap_err();
        assert!(matches!(error, AuthorityError::Name { .. }), "{name:?}: {error}");
    }
    let error = authority
        .issue_in("No Domain", "host", Validity::of_host())
        .unwrap_err();
    assert!(matches!(error, AuthorityError::TrustDomain { .. }), "{error}");
}

#[test]
fn an_authority_that_cannot_be_used_says_why() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(
        Authority::load(dir.path()).unwrap_err(),
        AuthorityError::Read { .. }
    ));
    Authority::create(dir.path(), Validity::of_authority()).unwrap();
    let key = fs::read(dir.path().join("ca.key")).unwrap();
    fs::write(dir.path().join("ca.key"), self_signed("x").key_pem.as_bytes()).unwrap();
    assert!(matches!(
        Authority::load(dir.path()).unwrap_err(),
        AuthorityError::Content { .. }
    ));
    fs::write(dir.path().join("ca.key"), &key).unwrap();
    fs::write(dir.path().join("ca.pem"), "nothing").unwrap();
    assert!(matches!(
        Authority::load(dir.path()).unwrap_err(),
        AuthorityError::Content { .. }
    ));

    let old = tempfile::tempdir().unwrap();
    let error = Authority::create(old.path(), expired()).unwrap_err();
    assert!(matches!(error, AuthorityError::Expired { .. }), "{error}");
}

#[test]
fn a_trust_setting_that_trusts_nobody_is_an_error_at_start() {
    let dir = tempfile::tempdir().unwrap();
    let bundle = dir.path().join("ca.pem");
    let host = identity(&self_signed("host"));
    let with = |trust: &Trust| Credentials::new(host.clone(), trust).map(|_| ());
    let ca = Trust::Ca {
        bundle: bundle.clone(),
    };
    assert!(matches!(with(&ca), Err(TrustError::Read { .. })));
    for garbage in [
        "",
        "nothing",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ] {
        fs::write(&bundle, garbage).unwrap();
        assert!(matches!(with(&ca), Err(TrustError::Content { .. })), "{garbage}");
    }
    let _ = Authority::create(&dir.path().join("old"), expired());
    fs::copy(dir.path().join("old/ca.pem"), &bundle).unwrap();
    assert!(matches!(with(&ca), Err(TrustError::AuthorityExpired { .. })));
    // One that is valid beside it is enough.
    let new = Authority::create(&dir.path().join("new"), Validity::of_authority()).unwrap();
    let both = [
        fs::read_to_string(&bundle).unwrap().as_str(),
        new.certificate_pem(),
    ]
    .concat();
    fs::write(&bundle, both).unwrap();
    assert!(with(&ca).is_ok());
    assert!(matches!(
        with(&Trust::Pinned {
            fingerprints: Vec::new()
        }),
        Err(TrustError::NoPins)
    ));
}
