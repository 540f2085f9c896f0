//! The plain loop as a program of its own, which allocates as C and Rust do where nobody says otherwise.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Compiles it, and says where it is.
pub fn compile() -> PathBuf {
    let compiled = Command::new(env!("CARGO"))
        .args(["bench", "--no-run", "--locked", "--bench", "plain", "--message-format", "json"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let messages = String::from_utf8(compiled.stdout).unwrap();
    let executable = |line: &str| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        // The program itself is compiled for every benchmark, too.
        (message["target"]["name"] == "plain").then_some(PathBuf::from(message["executable"].as_str()?))
    };
    messages.lines().find_map(executable).unwrap()
}

/// The share of the topic that it copies in a second.
pub fn run(program: &Path, servers: &str, from: &str, to: &str, partitions: u32) -> f64 {
    let ended = Command::new(program).args([servers, from, to, &partitions.to_string()]).output().unwrap();
    String::from_utf8(ended.stdout).unwrap().trim().parse().unwrap()
}
