//! The program under test: run once, or as a node that ends with its guard.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// How long anything may take. Ten times what it should: the machine may be busy.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// What a run came to.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Run {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.stdout.clone()).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Runs the program to its end.
pub(crate) fn snomesh(args: &[&str]) -> Run {
    finish(command(args).stdin(Stdio::null()).spawn().unwrap())
}

/// Runs the program to its end with a variable in its environment.
pub(crate) fn snomesh_with(variable: &str, value: &Path, args: &[&str]) -> Run {
    finish(command(args).env(variable, value).stdin(Stdio::null()).spawn().unwrap())
}

/// Runs the program to its end with something to read.
pub(crate) fn snomesh_reading(args: &[&str], input: Vec<u8>) -> Run {
    let mut child = command(args).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // A program that has read enough closes its end.
    thread::spawn(move || std::io::Write::write_all(&mut stdin, &input).ok());
    finish(child)
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_snomesh"));
    command.args(args).env_clear().stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn finish(mut child: Child) -> Run {
    let stdout = drain(child.stdout.take().unwrap());
    let stderr = drain(child.stderr.take().unwrap());
    let deadline = Instant::now() + DEADLINE;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("the program did not end");
        }
        thread::sleep(Duration::from_millis(2));
    };
    let stderr = String::from_utf8(stderr.join().unwrap()).unwrap();
    Run { code: status.code(), stdout: stdout.join().unwrap(), stderr }
}

fn drain(mut from: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).unwrap();
        bytes
    })
}

/// Waits until something holds.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        thread::sleep(LOOK_INTERVAL);
    }
}

/// A node in a process of its own, which is killed with this.
#[derive(Debug)]
pub(crate) struct Agent {
    child: Child,
    pub(crate) data_dir: PathBuf,
    log: PathBuf,
    pub(crate) id: String,
    pub(crate) listen: SocketAddr,
    pub(crate) admin: PathBuf,
}

impl Agent {
    /// Starts a node in `directory/name` and waits until it serves.
    pub(crate) fn start(directory: &Path, name: &str, args: &[&str]) -> Self {
        Self::start_on(directory, name, "127.0.0.1:0", args)
    }

    /// Starts a node that listens at that address.
    pub(crate) fn start_on(directory: &Path, name: &str, listen: &str, args: &[&str]) -> Self {
        Self::launch(directory, name, listen, args, &[])
    }

    /// Starts a node with variables in its environment.
    pub(crate) fn start_with(
        directory: &Path,
        name: &str,
        args: &[&str],
        environment: &[(&str, &str)],
    ) -> Self {
        Self::launch(directory, name, "127.0.0.1:0", args, environment)
    }

    fn launch(
        directory: &Path,
        name: &str,
        listen: &str,
        args: &[&str],
        environment: &[(&str, &str)],
    ) -> Self {
        let (data_dir, log) = (directory.join(name), directory.join(format!("{name}.log")));
        let mut child = Command::new(env!("CARGO_BIN_EXE_snomesh"))
            .args(["up", "--name", name, "--listen", listen, "--output", "json", "--data-dir"])
            .arg(&data_dir)
            .args(args)
            .env_clear()
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let (told, line) = mpsc::channel();
        thread::spawn(move || {
            let mut line = String::new();
            stdout.read_line(&mut line).unwrap();
            told.send(line).ok();
        });
        let line = line.recv_timeout(DEADLINE).unwrap();
        let log_of = || std::fs::read_to_string(&log).unwrap();
        let up: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {}", log_of()));
        let text = |field: &str| up[field].as_str().unwrap().to_owned();
        let (id, listen) = (text("node"), text("listen").parse().unwrap());
        Self { child, data_dir, log, id, listen, admin: text("admin").into() }
    }

    /// Starts a node that joins another one's mesh.
    pub(crate) fn join(directory: &Path, name: &str, first: &Self) -> Self {
        let (ca, key) = (first.file("ca.crt"), first.file("ca.key"));
        let join = first.listen.to_string();
        Self::start(directory, name, &["--join", &join, "--ca", &ca, "--ca-key", &key])
    }

    /// Starts three nodes, `a`, `b` and `c`, and waits until each has a link to the two others.
    pub(crate) fn three(directory: &Path) -> [Self; 3] {
        let a = Self::start(directory, "a", &[]);
        let (b, c) = (Self::join(directory, "b", &a), Self::join(directory, "c", &a));
        let agents = [a, b, c];
        until("three nodes are linked", || agents.iter().all(|agent| agent.linked() == 2));
        agents
    }

    /// Runs a command against this node.
    pub(crate) fn run(&self, args: &[&str]) -> Run {
        snomesh(&[&["--agent", self.admin.to_str().unwrap()], args].concat())
    }

    /// Runs a command against this node with something to read.
    pub(crate) fn run_reading(&self, args: &[&str], input: Vec<u8>) -> Run {
        snomesh_reading(&[&["--agent", self.admin.to_str().unwrap()], args].concat(), input)
    }

    /// Runs a command that must succeed.
    pub(crate) fn ok(&self, args: &[&str]) -> Run {
        let run = self.run(args);
        assert_eq!(run.code, Some(0), "{args:?}: {run:?}");
        run
    }

    /// Begins a command that goes on, and waits until it can be read.
    pub(crate) fn follow(&self, args: &[&str]) -> Follower {
        let args = [&["--agent", self.admin.to_str().unwrap()], args].concat();
        let mut child = command(&args).stdin(Stdio::null()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (told, lines) = mpsc::channel();
        thread::spawn(move || stdout.lines().map_while(Result::ok).all(|line| told.send(line).is_ok()));
        Follower { child, lines }
    }

    pub(crate) fn digest(&self) -> String {
        self.ok(&["digest"]).text()
    }

    pub(crate) fn status(&self) -> Value {
        self.run(&["status", "--output", "json"]).json()
    }

    pub(crate) fn linked(&self) -> u64 {
        self.status()["nodes"]["linked"].as_u64().unwrap()
    }

    pub(crate) fn file(&self, name: &str) -> String {
        self.data_dir.join(name).to_str().unwrap().to_owned()
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Ends it at once, without a good-bye.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Ends it in good order.
    pub(crate) fn stop(self) {
        assert_eq!(self.end(Signal::TERM), Some(143));
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().try_into().unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Sends a signal and waits for the end; gives back the exit code.
    pub(crate) fn end(mut self, signal: Signal) -> Option<i32> {
        self.signal(signal);
        let mut code = None;
        until("the end of the node", || {
            let status = self.child.try_wait().unwrap();
            code = status.and_then(|status| status.code());
            status.is_some()
        });
        code
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A command that goes on, and is killed with this.
#[derive(Debug)]
pub(crate) struct Follower {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Follower {
    /// Waits until it ends by itself; gives back the exit code.
    pub(crate) fn ended(mut self) -> Option<i32> {
        let mut code = None;
        until("the end of a command", || {
            let status = self.child.try_wait().unwrap();
            code = status.and_then(|status| status.code());
            status.is_some()
        });
        code
    }

    pub(crate) fn line(&mut self) -> String {
        self.lines.recv_timeout(DEADLINE).unwrap()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
