//! Agents that have nothing to do change nothing on the wire but the option they offer.
//!
//! Needs root, and `lab` and `host-agent` built before (`make test` does).
use std::path::{Path, PathBuf};
use std::process::Command;

/// The laboratory that was built into the directory this test comes from.
fn lab() -> PathBuf {
    let own = std::env::current_exe().expect("a path of one's own");
    let directory = own.parent().and_then(Path::parent).expect("a target directory");
    directory.join("lab")
}

/// Every story whose name begins so.
fn conversations() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(env!("CARGO_MANIFEST_DIR"))
        .into_iter()
        .flatten();
    let mut stories: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    stories.retain(|story| {
        let name = story.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("conversations") && name.ends_with(".scn")
    });
    stories.sort();
    stories
}

#[test]
fn conversations_are_the_same_segment_by_segment_with_idle_agents_and_without() {
    let stories = conversations();
    assert!(stories.len() >= 4, "{stories:?}");
    for story in stories {
        let output = Command::new(lab()).arg("same").arg(&story).output();
        let output = output.expect("the laboratory is built: cargo build -p lab -p host-agent, or make test");
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "{}: {said}", story.display());
    }
}
