//! A pair exchange through a server that passes on what it cannot read.

use std::collections::HashMap;

use host_agent::server::tunnel::{Invited, exchange};
use identity::{Abilities, Local, SleepHint};
use proto::mobility::v1::TunnelInvitation;

use crate::hub::{Hub, LIMIT};

fn local(address: [u8; 4]) -> Local {
    Local {
        agent_port: 7801,
        direct_addresses: vec![address.into()],
        peer_observed: None,
        servers: vec!["https://hub.example:7800".into()],
        abilities: Abilities::MIGRATE,
        sleep: SleepHint::default(),
        known: HashMap::new(),
    }
}

fn invited(hub: &Hub, dial: bool, peer: [u8; 4]) -> Invited {
    Invited {
        server: hub.url.clone(),
        invitation: TunnelInvitation {
            tunnel: vec![3; 16],
            connection: 1,
            dial,
        },
        peer: peer.into(),
        from: None,
        mark: 0,
    }
}

#[tokio::test]
async fn two_agents_agree_on_a_key_that_the_server_never_sees() {
    let hub = Hub::new().await;
    let (phone, server) = (hub.agent("phone"), hub.agent("server"));
    let authorities = hub.authorities();
    let (a, b) = ([10, 0, 0, 1], [203, 0, 113, 5]);
    let both = async {
        tokio::join!(
            exchange(invited(&hub, true, b), phone.clone(), &authorities, local(a)),
            exchange(
                invited(&hub, false, [198, 51, 100, 9]),
                server.clone(),
                &authorities,
                local(b)
            ),
        )
    };
    let (at_phone, at_server) = tokio::time::timeout(LIMIT, both).await.unwrap();
    let (at_phone, at_server) = (at_phone.unwrap(), at_server.unwrap());
    assert!(at_phone.key == at_server.key);
    assert_eq!(at_phone.pair_id, at_server.pair_id);
    assert_eq!(at_phone.common_servers, ["https://hub.example:7800"]);
    // The connection says where the peer is, and its own addresses whether a NAPT is in between.
    assert_eq!(at_phone.peer_observed.address, std::net::IpAddr::from(b));
    assert!(!at_phone.peer_behind_napt);
    assert!(at_server.peer_behind_napt);
}
