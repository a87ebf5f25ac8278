//! What the pages and the packaging say, held against the repository and the program.
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .expect("tests/scenarios lies in the workspace")
        .into()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
}

/// Every page for people, without what the build makes.
fn pages() -> Vec<PathBuf> {
    let mut open = vec![
        root().join("docs"),
        root().join("LICENSES"),
        root().join("packaging"),
    ];
    let mut found = vec![root().join("README.md"), root().join("ARCHITECTURE.md")];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(&directory)
            .expect("a directory can be read")
            .flatten()
        {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path);
            }
        }
    }
    found
}

/// The targets of Markdown links, code blocks left out.
fn links(text: &str) -> Vec<String> {
    let prose: Vec<&str> = text.split("```").step_by(2).collect();
    let after = prose.iter().flat_map(|part| part.split("](").skip(1));
    after
        .filter_map(|rest| rest.split_once(')'))
        .map(|(target, _)| target.to_owned())
        .collect()
}

/// A heading as the anchor that the common renderers make of it.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    kept.chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .collect::<String>()
        .replace(' ', "-")
}

#[test]
fn every_link_between_pages_leads_somewhere() {
    let mut broken = Vec::new();
    let mut seen = 0;
    for page in pages() {
        for link in links(&read(&page)) {
            if link.starts_with("http") {
                continue;
            }
            seen += 1;
            let (file, heading) = link.split_once('#').unwrap_or((&link, ""));
            let target = if file.is_empty() {
                page.clone()
            } else {
                page.with_file_name("").join(file)
            };
            let there = target.exists()
                && (heading.is_empty()
                    || read(&target).lines().any(|line| {
                        line.starts_with('#') && anchor(line.trim_start_matches('#')) == heading
                    }));
            if !there {
                broken.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(
        seen > 20,
        "only {seen} links were found; are they still readable?"
    );
    assert!(
        broken.is_empty(),
        "links that lead nowhere:\n{}",
        broken.join("\n")
    );
}

/// All files below a directory whose name ends like this, without what the build makes.
fn files(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let (mut open, mut found) = (vec![directory.to_owned()], Vec::new());
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() && !path.ends_with("target") && !path.ends_with(".git") {
                open.push(path);
            } else if path.extension().is_some_and(|own| own == extension) {
                found.push(path);
            }
        }
    }
    found
}

/// What stands in code in the cells of a page's tables that say what shows a claim.
fn shown_by(page: &str) -> Vec<String> {
    let rows = page
        .lines()
        .filter(|line| line.starts_with('|') && !line.starts_with("|---"));
    let cells = rows.filter_map(|row| row.trim_matches('|').split_once('|'));
    let words = cells.flat_map(|(_, cell)| {
        cell.split('`')
            .skip(1)
            .step_by(2)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    });
    words.collect()
}

#[test]
fn every_test_that_a_page_names_for_a_claim_exists() {
    let stories: Vec<String> = files(&root().join("tests/scenarios"), "scn")
        .iter()
        .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
        .collect();
    let sources: Vec<String> = files(&root(), "rs").iter().map(|path| read(path)).collect();
    let is_test = |name: &str| {
        let defined = format!("fn {name}(");
        sources.iter().any(|text| text.contains(&defined))
    };
    let mut missing = Vec::new();
    for page in ["docs/moves.md", "docs/relayed.md"] {
        let named = shown_by(&read(&root().join(page)));
        assert!(named.len() > 40, "{page}: only {} names were found", named.len());
        for name in named {
            let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            let there = match name.contains('/') {
                true => {
                    root().join(&name).exists() || root().join(format!("tests/scenarios/{name}.scn")).exists()
                }
                // A word of an output, or a command, is no name of a test.
                false if !plain || !name.contains('_') && !stories.contains(&name) => true,
                false => is_test(&name) || stories.iter().any(|story| story.contains(&name)),
            };
            if !there {
                missing.push(format!("{page}: {name}"));
            }
        }
    }
    assert!(
        missing.is_empty(),
        "named, and not there:\n{}",
        missing.join("\n")
    );
}

/// The program beside this test, as `cargo build` leaves it, or the one that `LAB_AGENT` names.
fn agent() -> PathBuf {
    if let Some(named) = std::env::var_os("LAB_AGENT") {
        return named.into();
    }
    let own = std::env::current_exe().expect("this test has a path");
    let beside = own
        .ancestors()
        .nth(2)
        .expect("tests lie in target/PROFILE/deps")
        .join("host-agent");
    assert!(
        beside.is_file(),
        "{} is missing: run `cargo build -p host-agent` first, as `make test` does",
        beside.display()
    );
    beside
}

fn in_force(config: &Path) -> String {
    let output = Command::new(agent())
        .args(["config", "check", "--config"])
        .arg(config)
        .output()
        .expect("it runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn the_packaged_configuration_says_what_is_in_force_without_it() {
    let directory = tempfile::tempdir().expect("a directory for a moment");
    let empty = directory.path().join("empty.toml");
    std::fs::write(&empty, "").expect("an empty file");
    assert_eq!(
        in_force(&root().join("packaging/host-agent.toml")),
        in_force(&empty)
    );
}

#[test]
fn the_packaged_configuration_names_every_key() {
    let source = read(&root().join("host-agent/src/config.rs"));
    let text = read(&root().join("packaging/host-agent.toml"));
    let named: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.trim_start_matches(['#', ' ']).split_once('='))
        .map(|(key, _)| key.trim())
        .collect();
    let structs = source.split("\npub struct ").skip(1).filter(|part| {
        ["Config ", "Timeouts ", "Paths ", "Heartbeat ", "Mptcp "]
            .iter()
            .any(|name| part.starts_with(name))
    });
    let keys: Vec<&str> = structs
        .flat_map(|part| part.split("\n}").next().unwrap_or_default().lines())
        .filter_map(|line| line.strip_prefix("    pub ")?.split_once(':'))
        .map(|(key, _)| key)
        .filter(|key| !matches!(*key, "trust" | "timeouts" | "paths" | "heartbeat" | "mptcp"))
        .collect();
    assert!(keys.len() > 15, "the keys were not found in config.rs: {keys:?}");
    let missing: Vec<&&str> = keys.iter().filter(|key| !named.contains(**key)).collect();
    assert!(
        missing.is_empty(),
        "packaging/host-agent.toml does not explain {missing:?}"
    );
    for table in ["[trust]", "[timeouts]", "[mptcp]"] {
        assert!(text.contains(table));
    }
}

#[test]
fn the_unit_grants_what_the_agent_needs_and_waits_for_its_word() {
    let unit = read(&root().join("packaging/host-agent.service"));
    for line in [
        "Type=notify",
        "ExecStart=/usr/bin/host-agent run",
        "RuntimeDirectory=host-agent",
        "StateDirectory=host-agent",
    ] {
        assert!(unit.lines().any(|stands| stands == line), "{line} is missing");
    }
    for capability in ["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN", "CAP_NET_RAW"] {
        assert!(unit.contains(capability), "{capability} is missing");
    }
}
