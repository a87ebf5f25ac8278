//! Short commands of the system (`ip`, `nft`): run to the end, fail with what they said.
use std::io::Write;
use std::process::{Child, Command, Stdio};

use super::MachineError;

/// Runs a command, feeds it `input`, returns what it printed.
///
/// # Errors
/// The command is missing, or its exit code is not 0.
pub fn run(command: &mut Command, input: &str) -> Result<String, MachineError> {
    let line = show(command);
    let child = piped(command).spawn();
    finish(child.map_err(|source| missing(command, source))?, line, input)
}

/// With all three streams for [`finish`].
pub(super) fn piped(command: &mut Command) -> &mut Command {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
}

/// Feeds a command that was started [`piped`], waits for its end, returns what it printed.
pub(super) fn finish(mut child: Child, line: String, input: &str) -> Result<String, MachineError> {
    if let Some(mut stdin) = child.stdin.take() {
        // A command that ends before it has read everything says why on standard error.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child
        .wait_with_output()
        .map_err(MachineError::io(format!("wait for `{line}`")))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(stdout);
    }
    let mut said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if said.is_empty() {
        said = stdout.trim().to_owned();
    }
    if !input.is_empty() {
        said = format!("{said}\n--- its input:\n{}", input.trim_end());
    }
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

pub(super) fn show(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    line
}
