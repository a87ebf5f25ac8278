//! What ARCHITECTURE.md says, held against the code: every stop of the walk exists, and imports go one way.
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package, PackageId};

/// Which packages of this workspace a crate or program may import, tests apart. A new one has to be entered here
/// and in ARCHITECTURE.md, so that somebody thinks about where it belongs.
const IMPORTS: [(&str, &[&str]); 15] = [
    ("wire", &[]),
    ("proto", &[]),
    ("migration", &["wire"]),
    ("datapath", &["wire"]),
    ("identity", &["wire", "proto"]),
    ("member", &["wire", "identity", "proto"]),
    ("operator", &[]),
    ("session-store", &["proto"]),
    ("mptcp-pm", &[]),
    (
        "host-agent",
        &[
            "wire",
            "migration",
            "datapath",
            "identity",
            "member",
            "mptcp-pm",
            "proto",
        ],
    ),
    (
        "mobility-server",
        &["wire", "migration", "identity", "session-store", "proto"],
    ),
    (
        "mptcp-relay",
        &["wire", "identity", "member", "mptcp-pm", "operator", "proto"],
    ),
    (
        "symmetric-proxy",
        &[
            "wire",
            "migration",
            "datapath",
            "identity",
            "member",
            "operator",
            "proto",
        ],
    ),
    ("lab", &["migration"]),
    ("scenarios", &[]),
];
const PROGRAMS: [&str; 4] = ["host-agent", "mobility-server", "mptcp-relay", "symmetric-proxy"];
/// Crates without IO, runtime or clock ...
const PURE: [&str; 2] = ["wire", "migration"];
/// ... so that none of these may come in, however indirectly,
const IMPURE: [&str; 9] = [
    "tokio",
    "tonic",
    "sled",
    "libbpf-rs",
    "libbpf-sys",
    "rtnetlink",
    "nix",
    "mio",
    "rustls",
];
/// and none of these may stand in their source.
const IMPURE_WORDS: [&str; 7] = [
    "Instant",
    "SystemTime",
    "std::fs",
    "std::thread",
    "std::process",
    "TcpStream",
    "UdpSocket",
];

static METADATA: LazyLock<Metadata> = LazyLock::new(|| {
    MetadataCommand::new()
        .manifest_path(root().join("Cargo.toml"))
        .exec()
        .expect("cargo metadata works")
});

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .expect("tests/scenarios lies in the workspace")
        .into()
}

fn read(path: &str) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
}

/// One row of the walk.
#[derive(Debug)]
struct Stop {
    step: usize,
    file: String,
    function: String,
}

/// The rows `| 7 | `file` | `function` | ... |` below the heading "The walk".
fn walk(page: &str) -> Vec<Stop> {
    let section = page
        .split("\n## ")
        .find(|section| section.starts_with("The walk"))
        .unwrap_or_default();
    let code = |cell: &str| {
        cell.trim()
            .strip_prefix('`')?
            .strip_suffix('`')
            .map(str::to_owned)
    };
    let row = |line: &str| {
        let cells: Vec<&str> = line.trim().trim_matches('|').split('|').collect();
        Some(Stop {
            step: cells.first()?.trim().parse().ok()?,
            file: code(cells.get(1)?)?,
            function: code(cells.get(2)?)?,
        })
    };
    section.lines().filter_map(row).collect()
}

/// Whether a source file defines the function; of a script, whether it has the line.
fn defines(file: &str, text: &str, function: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let called = |line: &str, before: &str| {
        line.split_once(&format!("{before}{function}"))
            .is_some_and(|(head, tail)| !head.ends_with(is_word) && !tail.starts_with(is_word))
    };
    match Path::new(file)
        .extension()
        .and_then(|extension| extension.to_str())
    {
        Some("rs") => text
            .lines()
            .any(|line| !line.trim_start().starts_with("//") && called(line, "fn ")),
        // A definition in C begins at the left margin with its type.
        Some("h" | "c") => text.lines().any(|line| {
            line.starts_with(|c: char| c.is_ascii_alphabetic())
                && line.contains(&format!("{function}("))
                && called(line, "")
                && !line.ends_with(';')
        }),
        _ => text.lines().any(|line| {
            let squeezed = line.split_whitespace().collect::<Vec<_>>().join(" ");
            squeezed.contains(function)
        }),
    }
}

#[test]
fn every_stop_of_the_walk_exists() {
    let stops = walk(&read("ARCHITECTURE.md"));
    assert!(
        stops.len() >= 30,
        "the walk has {} steps; is the table still readable?",
        stops.len()
    );
    let missing: Vec<String> = stops
        .iter()
        .filter(|stop| {
            !root().join(&stop.file).is_file() || !defines(&stop.file, &read(&stop.file), &stop.function)
        })
        .map(|stop| format!("step {}: no `{}` in {}", stop.step, stop.function, stop.file))
        .collect();
    assert!(
        missing.is_empty(),
        "ARCHITECTURE.md tells of what is not there:\n{}",
        missing.join("\n")
    );
}

#[test]
fn the_walk_counts_its_steps_and_visits_both_halves() {
    let stops = walk(&read("ARCHITECTURE.md"));
    let numbers: Vec<usize> = stops.iter().map(|stop| stop.step).collect();
    assert_eq!(numbers, (1..=stops.len()).collect::<Vec<_>>());
    for room in [
        "tests/lab/",
        "host-agent/",
        "crates/wire/",
        "crates/migration/",
        "crates/datapath/src/bpf/",
    ] {
        assert!(
            stops.iter().any(|stop| stop.file.starts_with(room)),
            "the walk leaves out {room}"
        );
    }
    assert!(
        stops[0].file.ends_with(".scn"),
        "the walk begins with a line of a scenario"
    );
}

#[test]
fn a_stop_that_does_not_exist_is_noticed() {
    let page = "# x\n\n## The walk\n\n| 1 | `a.rs` | `there` | x |\n| 2 | `a.rs` | `gone` | x |\n\n## Next\n| 3 | `b` | `c` | d |\n";
    let stops = walk(page);
    assert_eq!(
        stops
            .iter()
            .map(|stop| stop.function.as_str())
            .collect::<Vec<_>>(),
        ["there", "gone"]
    );
    let rust = "    pub(super) fn there(&self) {\n// fn gone()\nfn gone_too() {\n    gone();\n";
    assert!(defines("a.rs", rust, "there") && !defines("a.rs", rust, "gone"));
    let c = "static __always_inline int there(struct x *y)\n{\n\tgone(y);\n}\nint gone(void);\nint not_gone(int x)\n";
    assert!(defines("a.h", c, "there") && !defines("a.h", c, "gone"));
    let script = "after dl >= 2MiB  A      move home -> cafe gap=8s\n";
    assert!(
        defines("a.scn", script, "A move home -> cafe") && !defines("a.scn", script, "A move cafe -> home")
    );
}

fn package(name: &str) -> &'static Package {
    let package = METADATA
        .workspace_packages()
        .into_iter()
        .find(|package| package.name.as_str() == name);
    package.unwrap_or_else(|| panic!("there is no package {name}"))
}

/// The packages of this workspace that one depends on directly.
fn imports(package: &Package, tests_too: bool) -> BTreeSet<String> {
    let members: BTreeSet<&str> = METADATA
        .workspace_packages()
        .iter()
        .map(|member| member.name.as_str())
        .collect();
    package
        .dependencies
        .iter()
        .filter(|dependency| tests_too || dependency.kind != DependencyKind::Development)
        .map(|dependency| dependency.name.as_str())
        .filter(|name| members.contains(name))
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_package_has_its_place() {
    let members: BTreeSet<&str> = METADATA
        .workspace_packages()
        .iter()
        .map(|member| member.name.as_str())
        .collect();
    let placed: BTreeSet<&str> = IMPORTS.iter().map(|(name, _)| *name).collect();
    assert_eq!(
        members, placed,
        "IMPORTS and ARCHITECTURE.md have to say what each package may import"
    );
}

#[test]
fn imports_go_one_way() {
    for (name, allowed) in IMPORTS {
        for import in imports(package(name), false) {
            assert!(
                allowed.contains(&import.as_str()),
                "{name} imports {import}; it may import {allowed:?} only"
            );
        }
    }
}

#[test]
fn programs_import_no_programs_and_nobody_imports_the_laboratory() {
    for (name, _) in IMPORTS {
        let imported = imports(package(name), true);
        assert!(
            !imported.contains("lab") && !imported.contains("scenarios"),
            "{name} imports the laboratory"
        );
        if PROGRAMS.contains(&name) {
            let program = PROGRAMS.iter().find(|program| imported.contains(**program));
            assert_eq!(program, None, "the program {name} imports a program");
        }
    }
}

/// Everything a package is built from, tests apart.
fn ingredients(name: &str) -> BTreeSet<String> {
    let resolve = METADATA.resolve.as_ref().expect("cargo metadata resolves");
    let nodes: BTreeMap<&PackageId, _> = resolve.nodes.iter().map(|node| (&node.id, node)).collect();
    let mut reached = BTreeSet::new();
    let mut open = vec![&package(name).id];
    while let Some(id) = open.pop() {
        if reached.insert(id) {
            let used = nodes[id].deps.iter().filter(|dependency| {
                dependency
                    .dep_kinds
                    .iter()
                    .any(|kind| kind.kind != DependencyKind::Development)
            });
            open.extend(used.map(|dependency| &dependency.pkg));
        }
    }
    reached
        .into_iter()
        .map(|id| METADATA[id].name.to_string())
        .collect()
}

#[test]
fn wire_and_migration_are_pure() {
    for name in PURE {
        let ingredients = ingredients(name);
        assert!(ingredients.len() > 1, "{name} is built from something");
        let impure: Vec<&str> = IMPURE
            .into_iter()
            .filter(|word| ingredients.contains(*word))
            .collect();
        assert!(impure.is_empty(), "{name} is built from {impure:?}");
    }
    // The rule would notice.
    assert!(ingredients("host-agent").contains("tokio") && ingredients("datapath").contains("libbpf-rs"));
}

#[test]
fn wire_and_migration_read_no_clock_and_touch_nothing() {
    for name in PURE {
        let sources = rust_files(&root().join("crates").join(name).join("src"));
        assert!(!sources.is_empty());
        for path in sources {
            let text = std::fs::read_to_string(&path).expect("a source file can be read");
            for (number, line) in text.lines().enumerate() {
                let code = line.split("//").next().unwrap_or_default();
                let word = IMPURE_WORDS.into_iter().find(|word| {
                    code.split(|c: char| !c.is_alphanumeric() && c != '_' && c != ':')
                        .any(|part| part.contains(word))
                });
                assert_eq!(word, None, "{}:{}", path.display(), number + 1);
            }
        }
    }
}

/// Whoever sets the clock of a host changes nothing for its connections: what they wait for is counted by clocks that
/// nobody sets.
#[test]
fn the_wall_clock_counts_for_certificates_times_that_are_shown_and_the_first_report_only() {
    const MAY: [&str; 4] = [
        "crates/member/src/renewal.rs",
        "host-agent/src/server/attend.rs",
        "host-agent/src/server/counter.rs",
        "host-agent/src/timeline.rs",
    ];
    const WALL: [&str; 4] = ["SystemTime", "CLOCK_REALTIME", "OffsetDateTime", "chrono"];
    let mut readers = BTreeSet::new();
    for room in ["host-agent/src", "crates/datapath/src", "crates/member/src"] {
        for path in rust_files(&root().join(room)) {
            let text = std::fs::read_to_string(&path).expect("a source file can be read");
            if WALL.iter().any(|word| text.contains(word)) {
                let name = path.strip_prefix(root()).expect("it is in the project");
                readers.insert(name.display().to_string());
            }
        }
    }
    assert_eq!(readers, MAY.map(String::from).into());
    for entry in std::fs::read_dir(root().join("crates/datapath/src/bpf")).expect("the BPF programs") {
        let path = entry.expect("a BPF program").path();
        let text = std::fs::read_to_string(&path).expect("a source file can be read");
        // The only one of a program's clocks that anybody sets.
        assert!(!text.contains("ktime_get_tai"), "{}", path.display());
    }
}

fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)
        .expect("a source directory can be read")
        .flatten()
    {
        let path = entry.path();
        if path.is_dir() {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// Libraries and programs whose sources hold no tests build no test programs (`test = false`, `doctest = false`); a test that
/// is written there later would not be run, and nobody would notice.
#[test]
fn no_test_is_written_where_none_is_run() {
    for package in METADATA.workspace_packages() {
        let targets = package.targets.iter();
        let library = targets.clone().find(|target| target.is_lib());
        let documented = library.is_none_or(|target| target.doctest);
        let tested = library.is_none_or(|target| target.test);
        let sources = package.manifest_path.with_file_name("src");
        for path in rust_files(sources.as_std_path()) {
            let text = std::fs::read_to_string(&path).expect("a source file can be read");
            let program = targets
                .clone()
                .any(|target| !target.test && target.src_path == path);
            let has_test = text.contains("#[test]") || text.contains("::test]") || text.contains("::test(");
            assert!(
                !has_test || (tested && !program),
                "{} has tests that nothing runs",
                path.display()
            );
            let example = text.lines().any(|line| {
                let line = line.trim_start();
                line == "/// ```" || line == "//! ```rust" || line == "/// ```rust" || line == "/// ```no_run"
            });
            assert!(
                documented || !example,
                "{} has examples that nothing runs",
                path.display()
            );
        }
    }
}
