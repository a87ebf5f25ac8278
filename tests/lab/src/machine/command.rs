//! Short commands of the system (`ip`, `nft`): run to the end, fail with what they said.
use std::io::Write;
use std::process::{Command, Stdio};

use super::MachineError;

/// Runs a command, feeds it `input`, returns what it printed.
///
/// # Errors
/// The command is missing, or its exit code is not 0.
pub fn run(command: &mut Command, input: &str) -> Result<String, MachineError> {
    let line = show(command);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|source| missing(command, source))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A command that ends before it has read everything says why on standard error.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child
        .wait_with_output()
        .map_err(MachineError::io(format!("wait for `{line}`")))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let said = if input.is_empty() {
        said
    } else {
        format!("{said}\n--- its input:\n{}", input.trim_end())
    };
    Err(MachineError::Command { line, said })
}

pub fn missing(command: &Command, source: std::io::Error) -> MachineError {
    let program = command.get_program().to_string_lossy().into_owned();
    if source.kind() != std::io::ErrorKind::NotFound {
        return MachineError::Io {
            doing: format!("run `{}`", show(command)),
            source,
        };
    }
    let package = match program.as_str() {
        "ip" => "iproute2",
        "nft" => "nftables",
        "ssh" => "openssh-client",
        "/usr/sbin/sshd" | "ssh-keygen" => "openssh-server",
        "iperf3" => "iperf3",
        "curl" => "curl",
        "conntrack" => "conntrack",
        "tayga" => "tayga",
        "redis-server" => "redis-server",
        "redis-cli" => "redis-tools",
        _ => "the package that holds it",
    };
    MachineError::Missing { program, package }
}

fn show(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    line
}
