//! The language: what is read, and how mistakes are told.
use lab::language::ast::{Action, Deed, HostChange, Kind, LinkChange, Program, Talking, What, When};
use lab::language::{self, Scenario};

/// One of everything.
const WHOLE: &str = r#"title  One of everything
host   phone server
napt   home   masquerade
napt   cafe   masquerade fully-random silent outside=up2
core
link   wifi   phone=192.168.1.2/24,fd01::2/64  home=192.168.1.1/24,fd01::1/64  rate=20mbit delay=5ms
link   lte    phone=100.64.2.2/24              cafe=100.64.2.1/24              rate=10mbit delay=40ms loss=.5% down
link   up1    home=10.0.1.1/24                 core=10.0.1.254/24
link   up2    cafe=10.0.2.1/24                 core=10.0.2.254/24
link   lan    server=203.0.113.3/24            core=203.0.113.1/24             mtu=1400
route  server default via 203.0.113.1
sysctl all net.ipv4.tcp_ecn=0
agent  phone server  offer="any" retry.first=200

server sshd
server iperf3d port=5300
server serve port=7100 user_timeout=5s keepalive=1s/1s/3 nodelay as=files

+0              phone   fetch server 30MiB as=dl port=7100     # a comment
+.5             phone   echo server as=rr every=50ms size=100 connections=20
+.5             phone   idle server as=quiet
+300ms          phone   exec as=web curl -s "http://{server}:8080/a b"
+1              wifi    down keep
+1              lte     delay msyn 1..3 by=3s from=phone
+1              lte     flip msyn-ack 2 bit=17 in=option checksum=stale
+1              lte     record any all as=r1
+2              phone   move wifi -> lte gap=.2
after dl >= 20MiB limit=5   home  reboot for=1s
+3              phone   address lte -100.64.2.2/24 +100.64.2.9/24
+3              lte     rate=5mbit delay=80ms
+4              lte     replay r1 from=server
                quiet   speak
                phone   exec true -> exit=0 output~"^a\s*b" within=5
agent phone kill
kill web
within .5       phone   agent is Established path=lte
within 60       dl      done sha256=same
within 1        rr      answers >= 10 gap<=500ms
expect          resets=0 errors=0 leaks=0 invalid(home)=0 rst(phone)<=2
"#;

fn whole() -> Scenario {
    // Replaying from an end that is none is a mistake of its own, tested below.
    let text = WHOLE.replace(" from=server", " from=cafe");
    language::parse("whole.scn", &text).unwrap_or_else(|mistakes| panic!("{}", shown(&mistakes)))
}

fn shown(mistakes: &[language::Diagnostic]) -> String {
    mistakes.iter().map(|mistake| format!("{mistake}\n\n")).collect()
}

/// What is said about a scenario that cannot be read.
fn mistakes(text: &str) -> String {
    match language::parse("bad.scn", text) {
        Ok(_) => "no mistake".to_owned(),
        Err(mistakes) => shown(&mistakes),
    }
}

#[test]
fn everything_the_language_knows_is_read() {
    let scenario = whole();
    insta::assert_snapshot!(
        "explained",
        lab::explain::explain(&scenario) + &lab::explain::details(&scenario)
    );
}

#[test]
fn values_arrive_with_their_units() {
    let scenario = whole();
    let wifi = scenario.link("wifi").unwrap();
    assert_eq!(wifi.shape.rate, Some(20_000_000));
    assert_eq!(wifi.shape.delay.as_millis(), 5);
    assert_eq!(wifi.ends[0].addresses.len(), 2);
    assert_eq!(scenario.link("lte").unwrap().shape.loss, 0.005);
    let find = |text: &str| {
        scenario
            .steps
            .iter()
            .find(|step| step.text.contains(text))
            .unwrap()
    };
    let When::At(time) = find("idle server").when else {
        panic!("a timed step")
    };
    assert_eq!(time.as_millis(), 500);
    let What::Do(Action::Start(start)) = &find("fetch server").what else {
        panic!("a program")
    };
    let Program::Talk(talk) = &start.program else {
        panic!("a client")
    };
    assert_eq!((talk.what, talk.port), (Talking::Fetch(30 * 1024 * 1024), 7100));
    let What::Do(Action::Link {
        change: LinkChange::Interfere(order),
        ..
    }) = &find("delay msyn").what
    else {
        panic!("an interference")
    };
    assert_eq!((order.first, order.last), (1, Some(3)));
    assert_eq!(order.deed, Deed::Delay(std::time::Duration::from_secs(3)));
    let What::Do(Action::Host {
        change: HostChange::Move { gap, .. },
        ..
    }) = &find("move wifi").what
    else {
        panic!("a move")
    };
    assert_eq!(gap.as_millis(), 200);
    let What::Do(Action::Start(start)) = &find("exec true").what else {
        panic!("a program")
    };
    assert_eq!(start.outcome.as_ref().unwrap().output, [r"^a\s*b"]);
    let What::Do(Action::Start(start)) = &find("curl").what else {
        panic!("a program")
    };
    let Program::Exec(words) = &start.program else {
        panic!("a command")
    };
    assert_eq!(words.last().unwrap(), "http://{server}:8080/a b");
}

#[test]
fn a_mistake_shows_line_column_and_what_was_expected() {
    insta::assert_snapshot!(mistakes("host phone\nlink wifi phone=192.168.1.2 core\n"));
    insta::assert_snapshot!(mistakes("host a b\n+0 a fetch b 30MB as=dl evry=5\n"));
    insta::assert_snapshot!(mistakes(
        "host a b\nlink l a=10.0.0.1/24 b=10.0.0.2/24 rate=20mbits\n"
    ));
    insta::assert_snapshot!(mistakes("host a b\n\t+1 a exec echo \"never closed\n"));
    insta::assert_snapshot!(mistakes("napt n masquarade\n"));
    insta::assert_snapshot!(mistakes("host a\n+1x a up\n"));
    insta::assert_snapshot!(mistakes("host a\nwithin\n"));
    insta::assert_snapshot!(mistakes("host a\nexpect reset=0\n"));
    insta::assert_snapshot!(mistakes("host a\nexpect leaks=none\n"));
    insta::assert_snapshot!(mistakes("host a\na frobnicate\n"));
    insta::assert_snapshot!(mistakes("host a\na exec true -> output~\"(\"\n"));
}

#[test]
fn names_that_mean_nothing_are_refused_where_they_stand() {
    let network =
        "host a b\nrouter r\nlink l a=10.0.0.1/24 r=10.0.0.2/24\nlink m b=10.0.1.1/24 r=10.0.1.2/24\n";
    insta::assert_snapshot!(mistakes(&format!("{network}+0 a fetch c 1MiB\n+0 x down\n")));
    insta::assert_snapshot!(mistakes(&format!("{network}+0 a move l -> m\n")));
    insta::assert_snapshot!(mistakes(&format!(
        "{network}within 1 dl done\n+1 a fetch b 1MiB as=dl\n"
    )));
    insta::assert_snapshot!(mistakes(&format!(
        "{network}+0 l replay r1\n+0 l drop syn from=b\n"
    )));
    insta::assert_snapshot!(mistakes(&format!(
        "{network}+0 a fetch b 1MiB as=x\n+0 x speak\n+0 a push b 1MiB as=x\n"
    )));
    insta::assert_snapshot!(mistakes("host a a\nnapt n masquerade\nlink averylongname1 a n\n"));
    insta::assert_snapshot!(mistakes(&format!(
        "{network}expect invalid(r)=0\n+0 r flush\nagent a kill\n"
    )));
    insta::assert_snapshot!(mistakes(&format!(
        "{network}+0 a fetch b 1MiB family=6\nroute a default via 10.9.9.9\n"
    )));
}

#[test]
fn all_mistakes_are_shown_at_once_and_in_order() {
    let said = mistakes("host 1\nlink\nbogus\n");
    let places: Vec<&str> = said.lines().filter(|line| line.starts_with("bad.scn:")).collect();
    assert_eq!(places.len(), 3, "{said}");
    assert!(
        places[0].starts_with("bad.scn:1:6:") && places[2].starts_with("bad.scn:3:"),
        "{said}"
    );
}

#[test]
fn no_line_whatever_its_bytes_makes_the_reader_panic() {
    // Every prefix of a rich scenario, and every line with one character replaced by an awkward one.
    for end in (0..WHOLE.len()).filter(|end| WHOLE.is_char_boundary(*end)) {
        let _ = language::parse("cut.scn", &WHOLE[..end]);
    }
    for line in WHOLE.lines() {
        for at in 0..line.len() {
            for odd in [
                "\"",
                "=",
                "->",
                "#",
                " ",
                "é",
                "\u{0}",
                "99999999999999999999",
                "/",
                "+",
                ".",
            ] {
                let text = format!("{}{odd}{}", &line[..at], line.get(at + 1..).unwrap_or_default());
                let _ = language::parse("odd.scn", &text);
            }
        }
    }
}

#[test]
fn a_relay_is_a_router_that_can_be_killed_asked_and_told_what_to_prefer() {
    let text = "
host      A B
multipath A
relay     R mark=16
link   wifi   A=10.1.0.2/24   R=10.1.0.1/24
link   lan    B=192.0.2.2/24  R=192.0.2.1/24
+0         A  fetch B 1MiB mptcp as=dl
within 5   R  relay subflows path=wifi count=1
relay R prefer wifi
relay R prefer 10.1.0.2
relay R kill
within 5   dl done
";
    let scenario = language::parse("story.scn", text).expect("a scenario");
    assert!(scenario.is_multipath("A") && !scenario.is_multipath("B"));
    assert_eq!(scenario.relays[0].settings["mark"], "16");
    assert_eq!(scenario.node("R").map(|node| &node.kind), Some(&Kind::Router));
    let What::Do(Action::Start(start)) = &scenario.steps[0].what else {
        panic!("a program")
    };
    let Program::Talk(talk) = &start.program else {
        panic!("a client")
    };
    assert!(talk.options.mptcp);
    for (line, mistake) in [
        ("relay A kill", "no relay `A`"),
        ("within 5 B relay status up=1", "no relay `B`"),
        ("relay R prefer lte", "no link `lte`"),
    ] {
        let said = language::parse("story.scn", &format!("{text}{line}\n")).expect_err(line);
        assert!(said[0].to_string().contains(mistake), "{line}: {}", said[0]);
    }
    // Programs run beside a relay, but not on a router that is nothing else.
    let router = "host A\nrouter R\nlink wifi A=10.1.0.2/24 R=10.1.0.1/24\nmultipath R\n";
    assert!(mistakes(router).contains("not a host"), "{}", mistakes(router));
}
