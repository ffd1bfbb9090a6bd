//! A real browser, headless, driven by the WebDriver protocol.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::http::converse;
use crate::program::DEADLINE;

const DRIVER: &str = "/usr/bin/chromedriver";
const BROWSER: &str = "/usr/bin/chromium";

/// A browser with one window, which is closed with this.
#[derive(Debug)]
pub(crate) struct Browser {
    driver: Child,
    address: SocketAddr,
    session: String,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// Opens a browser; nothing, said aloud, where there is none.
    #[expect(clippy::print_stderr, reason = "who runs the tests is to know what was left out")]
    pub(crate) fn open() -> Option<Self> {
        if ![DRIVER, BROWSER].iter().all(|program| std::path::Path::new(program).exists()) {
            eprintln!("SKIPPED: no Chromium here; it comes with the packages chromium and chromium-driver");
            return None;
        }
        let profile = tempfile::tempdir().unwrap();
        let mut driver = Command::new(DRIVER)
            .arg("--port=0")
            .env("HOME", profile.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = lines.find_map(|line| {
            let line = line.unwrap();
            let port = line.strip_prefix("ChromeDriver was started successfully on port ")?;
            port.trim_end_matches('.').parse::<u16>().ok()
        });
        std::thread::spawn(move || lines.for_each(drop));
        let address = ([127, 0, 0, 1], port.unwrap()).into();
        let mut browser = Self { driver, address, session: String::new(), _profile: profile };
        let args = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
        ];
        let options = json!({ "binary": BROWSER, "args": args });
        let wanted = json!({ "goog:chromeOptions": options, "goog:loggingPrefs": { "browser": "ALL" } });
        let opened = browser.call("POST", "/session", &json!({ "capabilities": { "alwaysMatch": wanted } }));
        browser.session = format!("/session/{}", opened["sessionId"].as_str().unwrap());
        Some(browser)
    }

    fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let body = if method == "POST" { body.to_string() } else { String::new() };
        let head =
            format!("{method} {path} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json", self.address);
        let answer = converse(stream, &head, body.as_bytes());
        assert_eq!(answer.status, 200, "{method} {path}: {answer:?}");
        answer.json()["value"].clone()
    }

    fn command(&self, path: &str, body: &Value) -> Value {
        self.call("POST", &format!("{}{path}", self.session), body)
    }

    /// Follows a link.
    pub(crate) fn visit(&self, url: &str) {
        self.command("/url", &json!({ "url": url }));
    }

    pub(crate) fn resize(&self, width: u32, height: u32) {
        self.command("/window/rect", &json!({ "width": width, "height": height }));
    }

    /// What a script returns.
    pub(crate) fn run(&self, script: &str) -> Value {
        self.command("/execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// Waits until an expression of the page holds.
    pub(crate) fn until(&self, expression: &str) {
        let script = format!("return Boolean({expression})");
        let deadline = Instant::now() + DEADLINE;
        while self.run(&script) != true {
            if Instant::now() > deadline {
                self.picture("failed");
                panic!("not in time: {expression}; the browser complains of {:#?}", self.complaints());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Presses keys, one after the other, as people do.
    pub(crate) fn press(&self, keys: &[&str]) {
        let pressed = keys.iter().flat_map(|key| {
            [json!({ "type": "keyDown", "value": key }), json!({ "type": "keyUp", "value": key })]
        });
        let actions: Vec<_> = pressed.collect();
        self.command(
            "/actions",
            &json!({ "actions": [{ "type": "key", "id": "keys", "actions": actions }] }),
        );
    }

    /// What the browser has to complain of: errors of scripts, what the page's policy forbids, what is not there.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let log = self.command("/se/log", &json!({ "type": "browser" }));
        let entries = log.as_array().unwrap().iter();
        let bad = entries.filter(|entry| entry["level"] == "SEVERE" || entry["level"] == "WARNING");
        bad.map(|entry| entry["message"].as_str().unwrap().to_owned()).collect()
    }

    /// A picture of the window, as PNG, kept if somebody asked for it: `SNOMESH_SCREENSHOTS=DIR`.
    pub(crate) fn picture(&self, name: &str) {
        let Some(directory) = std::env::var_os("SNOMESH_SCREENSHOTS") else { return };
        let picture = self.call("GET", &format!("{}/screenshot", self.session), &Value::Null);
        let png = data_encoding::BASE64.decode(picture.as_str().unwrap().as_bytes()).unwrap();
        std::fs::write(std::path::Path::new(&directory).join(format!("{name}.png")), png).unwrap();
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if !self.session.is_empty() && !std::thread::panicking() {
            self.call("DELETE", &self.session, &Value::Null);
        }
        self.driver.kill().ok();
        self.driver.wait().ok();
    }
}
