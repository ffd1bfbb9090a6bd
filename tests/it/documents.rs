//! Documents do not rot: every block of a console in them is run here, in the order in which it stands.
//!
//! What builds the program is CI's own work and is left out: commands of cargo, and of package managers. So are blocks
//! that are not a console's (`sh`, `toml`), which show what cannot be run everywhere.

use std::path::Path;
use std::process::{Command, Stdio};

const DOCUMENTS: &[&str] = &["README.md", "docs/OPERATING.md", "docs/SECURITY.md"];

/// The commands of a document's console blocks: lines behind a `$`, with those that continue them.
fn commands(text: &str) -> Vec<String> {
    let (mut commands, mut inside, mut continues) = (Vec::<String>::new(), false, false);
    for line in text.lines() {
        if let Some(kind) = line.strip_prefix("```") {
            inside = kind == "console" && !inside;
            continues = false;
        } else if inside && continues {
            let last = commands.last_mut().unwrap();
            last.push('\n');
            last.push_str(line.trim());
            continues = line.ends_with('\\');
        } else if let Some(command) = line.strip_prefix("$ ").filter(|_| inside) {
            commands.push(command.to_owned());
            continues = line.ends_with('\\');
        }
    }
    commands
}

fn is_run(command: &str) -> bool {
    !["cargo ", "apt-get ", "systemctl ", "bash .ci"].iter().any(|start| command.starts_with(start))
}

#[test]
fn every_console_block_does_what_it_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = Path::new(env!("CARGO_BIN_EXE_snomesh")).parent().unwrap();
    for document in DOCUMENTS {
        let text = std::fs::read_to_string(root.join(document)).unwrap();
        let commands: Vec<_> = commands(&text).into_iter().filter(|command| is_run(command)).collect();
        let home = tempfile::tempdir().unwrap();
        // Each in a place of its own: what documents call /tmp/mesh, and ports that nobody else has.
        let script = commands.join("\n").replace("/tmp/mesh", home.path().join("mesh").to_str().unwrap());
        // The port that nodes take where a document names none is one of them.
        let script = ports(&format!("export SNOMESH_LISTEN=127.0.0.1:7667\n{script}"));
        let script =
            format!("set -euo pipefail\ntrap 'kill $(jobs -p) 2>/dev/null || true' EXIT\nset -x\n{script}\n");
        let run = Command::new("bash")
            .args(["-c", &script])
            .current_dir(home.path())
            .env_clear()
            .env("PATH", format!("{}:/usr/local/bin:/usr/bin:/bin", program.display()))
            .env("HOME", home.path())
            .env("SNOMESH_TIMEOUT", "60s")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let (out, err) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
        stop(&home.path().join("mesh"));
        assert!(run.status.success(), "{document}: {}\n{out}\n{err}", run.status);
    }
}

/// Ends what a document that failed has left in the background.
fn stop(mesh: &Path) {
    for node in std::fs::read_dir(mesh).into_iter().flatten().flatten() {
        let data = node.path();
        if data.join("admin.sock").exists() {
            crate::program::snomesh(&["--data-dir", data.to_str().unwrap(), "down"]);
        }
    }
}

/// Ports that are free now, instead of those that documents name.
fn ports(script: &str) -> String {
    let mut script = script.to_owned();
    let held: Vec<_> = ["7667", "7668", "8080", "9090", "9091"]
        .iter()
        .map(|port| (port, std::net::TcpListener::bind("127.0.0.1:0").unwrap()))
        .collect();
    for (port, listener) in &held {
        script = script.replace(*port, &listener.local_addr().unwrap().port().to_string());
    }
    script
}

#[test]
fn commands_are_what_stands_behind_the_prompt() {
    let text = "```console\n$ a \\\n    b\nout\n# note\n$ c\n```\n```sh\n$ d\n```\n$ e\n";
    assert_eq!(commands(text), ["a \\\nb", "c"]);
}
