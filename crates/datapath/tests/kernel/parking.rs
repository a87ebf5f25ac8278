//! The parking device and its routing: made once, found again, and nothing of it left after cleaning up.

use std::net::IpAddr;

use datapath::parking::{Parking, ParkingError, ParkingOptions};
use rtnetlink::Handle;

use crate::place::{AGENT_MARK, Host, MARK, isolated, said};

fn options(device: &str) -> ParkingOptions {
    ParkingOptions {
        device: device.into(),
        table: 7801,
        rule_priority: 78,
        mark: MARK,
        agent_mark: AGENT_MARK,
    }
}

/// What `ip` shows.
fn ip(arguments: &str) -> String {
    said(&format!("ip {arguments}"))
}

/// Everything about routing that there is on this host.
fn routing() -> Vec<String> {
    [
        "-o link",
        "-4 rule",
        "-6 rule",
        "-4 route show table all",
        "-6 route show table all",
        "-o addr",
    ]
    .map(ip)
    .into()
}

fn with_netlink<F: Future>(work: impl FnOnce(Handle) -> F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection().unwrap();
        tokio::spawn(connection);
        work(handle).await
    })
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn what_is_set_up_is_found_again_and_cleaned_up_to_the_last_rule() {
    isolated(|| {
        let host = Host::first();
        let _second = Host::second();
        host.enter();
        let before = routing();
        with_netlink(async |handle| {
            let mut parking = Parking::set_up(handle.clone(), options("mob0")).await.unwrap();
            assert_eq!(ip("-4 rule"), before[1], "no rule before one is needed");
            parking.lead().await.unwrap();
            assert!(ip("-4 rule").contains("fwmark 0x1000000") && ip("-6 rule").contains("fwmark 0x1000000"));
            parking.stop_leading().await;
            assert_eq!(
                (ip("-4 rule"), ip("-6 rule")),
                (before[1].clone(), before[2].clone())
            );
            let lost = [address("10.77.0.1"), address("fd77::1")];
            for address in lost {
                parking.retire(address).await.unwrap();
                parking.retire(address).await.unwrap();
            }
            assert_eq!(parking.retired().await, lost);
            let rules = ip("-4 rule");
            for rule in [
                "from all fwmark 0x1000000",
                "from all fwmark 0x400000",
                "from 10.77.0.1 fwmark 0/0x800000 ipproto tcp",
            ] {
                assert!(rules.contains(rule), "{rule}: {rules}");
            }
            assert!(ip("-6 rule").contains("from fd77::1 fwmark 0/0x800000 ipproto tcp"));
            let again = Parking::set_up(handle.clone(), options("mob0")).await.unwrap();
            assert_eq!((again.ifindex, again.mac), (parking.ifindex, parking.mac));
            assert_eq!(again.retired().await, lost);
            assert_eq!(ip("-4 rule"), rules, "nothing twice");

            // New connections to a kept address are the next owner's; replies leave by the device.
            let route = parking.route_to(address("10.77.0.2"), None, None).await.unwrap();
            assert_eq!((route.gateway, route.source), (None, Some(address("10.77.0.1"))));
            parking.set_mtu(Some((1380, 1400))).await.unwrap();
            assert!(ip("-4 route show table 7801").contains("mtu 1380"));
            assert!(ip("-6 route show table 7801").contains("mtu 1400"));

            again.release(lost[0]).await.unwrap();
            assert_eq!(again.retired().await, lost[1..]);
            assert!(!ip("-4 rule").contains("from 10.77.0.1"));
            let removed = Parking::clean_up(&handle, "mob0", 7801, 78).await;
            assert!(removed.iter().any(|what| what.contains("mob0")), "{removed:?}");
            assert!(Parking::clean_up(&handle, "mob0", 7801, 78).await.is_empty());
        });
        assert_eq!(routing(), before);
    });
}

#[test]
fn somebody_elses_device_is_neither_taken_nor_removed() {
    isolated(|| {
        let host = Host::first();
        let _second = Host::second();
        host.enter();
        let before = routing();
        with_netlink(async |handle| {
            for device in ["cable", "lo"] {
                let error = Parking::set_up(handle.clone(), options(device))
                    .await
                    .err()
                    .unwrap();
                assert!(matches!(error, ParkingError::Taken(_)), "{error}");
                assert!(
                    error.to_string().contains(device) && error.to_string().contains("`device`"),
                    "{error}"
                );
                assert!(Parking::clean_up(&handle, device, 7801, 78).await.is_empty());
            }
        });
        assert_eq!(routing(), before);
    });
}

#[test]
fn rules_of_others_stay() {
    isolated(|| {
        let _host = Host::first();
        crate::place::run("ip rule add from 192.0.2.1 table 99 priority 78");
        crate::place::run("ip rule add fwmark 5 table 99 priority 79");
        with_netlink(async |handle| {
            let mut parking = Parking::set_up(handle.clone(), options("mob0")).await.unwrap();
            assert!(!parking.leads());
            parking.lead().await.unwrap();
            parking.stop_leading().await;
            assert!(ip("rule").contains("from 192.0.2.1 lookup 99") && ip("rule").contains("fwmark 0x5"));
            parking.lead().await.unwrap();
            let rules = ip("rule");
            assert!(
                rules.contains("fwmark 0x1000000") && rules.contains("fwmark 0x400000"),
                "ours come beside: {rules}"
            );
            Parking::clean_up(&handle, "mob0", 7801, 78).await;
        });
        let rules = ip("rule");
        assert!(
            rules.contains("from 192.0.2.1 lookup 99") && rules.contains("fwmark 0x5"),
            "{rules}"
        );
    });
}
