//! `mobility-server init`: a deployment from nothing, one more server, a new certificate under a running one.

use std::path::Path;

use mobility_server::config::Config;
use mobility_server::{drive, init};

fn config(directory: &Path) -> Config {
    Config {
        identity: directory.join("server"),
        authority: directory.join("authority"),
        state_dir: directory.join("state"),
        ..Config::default()
    }
}

fn names() -> Vec<String> {
    vec!["server.example.org".to_owned()]
}

#[tokio::test]
async fn a_deployment_has_an_authority_a_certificate_a_configuration_and_a_token() {
    let directory = tempfile::tempdir().expect("a directory");
    let (config, file) = (config(directory.path()), directory.path().join("server.toml"));
    let made = init::run(&config, Some(&file), &names(), false, 2)
        .await
        .expect("a deployment");
    assert!(made.token.is_some_and(|token| token.contains(&made.authority)));
    let written = std::fs::read_to_string(&file).expect("a configuration");
    assert!(
        written.contains("servers = [\"https://server.example.org:7800\"]"),
        "{written}"
    );
    let again = init::run(&config, Some(&file), &names(), false, 2).await;
    let refusal = again.expect_err("nothing is overwritten").to_string();
    assert!(refusal.contains("is there already"), "{refusal}");
}

#[tokio::test]
async fn a_new_certificate_is_made_while_the_server_has_its_store_open() {
    let directory = tempfile::tempdir().expect("a directory");
    let (config, file) = (config(directory.path()), directory.path().join("server.toml"));
    let first = init::run(&config, Some(&file), &names(), false, 2)
        .await
        .expect("a deployment");
    let _running = drive::open_store(&config).await.expect("the server's store");
    std::fs::remove_dir_all(&config.identity).expect("an empty place for the new one");
    let second = init::run(&config, Some(&file), &names(), true, 2)
        .await
        .expect("a certificate");
    assert_eq!(second.authority, first.authority);
    assert_eq!(second.token, None);
    assert!(Path::new(&second.certificate).is_file());
}
