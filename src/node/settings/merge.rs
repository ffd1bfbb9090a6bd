//! Flags over environment over files over defaults.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use super::file::{self, At, Contents, Item};
use super::table::{self, Kind, SETTINGS};
use super::{BindSetting, Chosen, Fault, Origin, Settings};
use crate::compat::PublicPorts;
use crate::id::TunnelName;
use crate::mesh::health::check_reserved;
use crate::mesh::{DestinationError, NoWeight, ParsePolicyError, Policy, Weight};
use crate::node::forwards::Offer;
use crate::node::health::HealthCheck;
use crate::node::{CompatConfig, api, parse};
use crate::replica::Attributes;
use crate::service::{Listen, Target};

/// The shortest time after which a node that is down is evicted.
const MIN_EVICTION: Duration = Duration::from_secs(600);

/// The longest file that is read, in bytes.
const MAX_FILE: u64 = 1024 * 1024;

/// Where settings come from, to be read as often as wanted.
#[derive(Debug, Clone, Default)]
pub(in crate::node) struct Sources {
    /// Files that were named; they must be there.
    pub(in crate::node) named: Vec<PathBuf>,
    /// The file that is read if none was named and it is there, and what is in `conf.d` beside it.
    pub(in crate::node) default: Option<PathBuf>,
    /// What flags said, by the setting's key.
    pub(in crate::node) flags: BTreeMap<&'static str, Vec<String>>,
    /// What the environment says, by the variable's name.
    pub(in crate::node) env: BTreeMap<&'static str, OsString>,
}

/// Where the configuration is if nobody says so; nothing if the environment does not tell.
pub(in crate::node) fn default_file() -> Option<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Some("/etc/snomesh/snomesh.toml".into());
    }
    let given = std::env::var_os("XDG_CONFIG_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config"));
    given.or_else(home).map(|config| config.join("snomesh/snomesh.toml"))
}

impl Sources {
    /// The variables of the environment that settings have.
    pub(in crate::node) fn environment() -> BTreeMap<&'static str, OsString> {
        let set = SETTINGS.iter().filter_map(|setting| Some((setting.env, std::env::var_os(setting.env)?)));
        set.filter(|(_, value)| !value.is_empty()).collect()
    }

    /// The files that are read, in their order: what a later one says holds.
    pub(in crate::node) fn files(&self) -> Vec<PathBuf> {
        if !self.named.is_empty() {
            return self.named.clone();
        }
        let Some(default) = &self.default else { return Vec::new() };
        let mut files: Vec<PathBuf> = default.exists().then(|| default.clone()).into_iter().collect();
        let parts = default.parent().map(|directory| directory.join("conf.d"));
        let parts = parts.and_then(|parts| std::fs::read_dir(parts).ok()).into_iter().flatten();
        let mut parts: Vec<PathBuf> = parts.filter_map(|part| Some(part.ok()?.path())).collect();
        parts.retain(|part| part.extension().is_some_and(|extension| extension == "toml"));
        parts.sort();
        files.append(&mut parts);
        files
    }

    /// Reads everything.
    ///
    /// # Errors
    ///
    /// Everything that is wrong.
    pub(in crate::node) fn load(&self) -> Result<Settings, Vec<Fault>> {
        let mut faults = Vec::new();
        let files = self.files();
        let mut chosen: BTreeMap<&'static str, Chosen> = BTreeMap::new();
        let (mut tunnels, mut binds) = (Vec::new(), Vec::new());
        for path in &files {
            let Some(text) = read(path, &mut faults) else { continue };
            let Contents { values, tunnels: more_tunnels, binds: more_binds } =
                file::parse(path, &text, &mut faults);
            for (key, At { value, place }) in values {
                chosen.insert(key, Chosen { texts: value, origin: Origin::File(place) });
            }
            tunnels.extend(more_tunnels);
            binds.extend(more_binds);
        }
        for setting in SETTINGS {
            if let Some(value) = self.env.get(setting.env) {
                match value.to_str() {
                    Some(text) => {
                        let texts = match setting.kind {
                            Kind::List => text.split(',').map(|part| part.trim().to_owned()).collect(),
                            _ => vec![text.to_owned()],
                        };
                        chosen.insert(setting.key, Chosen { texts, origin: Origin::Env(setting.env) });
                    }
                    None => faults.push(fault(&Origin::Env(setting.env), "is not a text".to_owned())),
                }
            }
            if let Some(texts) = self.flags.get(setting.key) {
                let flag = setting.flag.unwrap_or(setting.key).replace('_', "-");
                chosen.insert(setting.key, Chosen { texts: texts.clone(), origin: Origin::Flag(flag) });
            }
            if !chosen.contains_key(setting.key) && !setting.default.is_empty() {
                let texts = vec![setting.default.to_owned()];
                chosen.insert(setting.key, Chosen { texts, origin: Origin::Default });
            }
        }
        settle(files, chosen, tunnels, binds, faults)
    }
}

fn read(path: &Path, faults: &mut Vec<Fault>) -> Option<String> {
    let attempt = || -> std::io::Result<String> {
        let length = std::fs::metadata(path)?.len();
        if length > MAX_FILE {
            let what = format!("{length} bytes are no configuration");
            return Err(std::io::Error::other(what));
        }
        std::fs::read_to_string(path)
    };
    let failed = |error: std::io::Error| {
        let what = format!("cannot be read: {error}");
        faults.push(Fault { place: Some(path.display().to_string()), what, hint: None });
    };
    attempt().map_err(failed).ok()
}

fn fault(origin: &Origin, what: String) -> Fault {
    let place = match origin {
        Origin::Default => None,
        Origin::File(place) => Some(place.to_string()),
        Origin::Env(name) => Some((*name).to_owned()),
        Origin::Flag(flag) => Some(format!("--{flag}")),
    };
    Fault { place, what, hint: None }
}

/// Takes the texts apart.
fn settle(
    files: Vec<PathBuf>,
    chosen: BTreeMap<&'static str, Chosen>,
    tunnels: Vec<Item>,
    binds: Vec<Item>,
    mut faults: Vec<Fault>,
) -> Result<Settings, Vec<Fault>> {
    let mut values = Values { chosen: &chosen, faults: &mut faults };
    let path = |text: &str| Ok(PathBuf::from(text));
    let name = values.one("node.name", parse::label).unwrap_or_else(parse::machine_name);
    let data_dir = values.one("node.data_dir", path).or_else(parse::default_data_dir);
    let evict_after = values.one("mesh.evict_after", eviction);
    let listen = values.one("quic.listen", parse::listen);
    let http = values.one("admin.http", |text| match text {
        "" | "off" => Ok(None),
        text => loopback(text).map(Some),
    });
    let log_level = values.one("log.level", |text| parse::log_filter(text).map(|_legal| text.to_owned()));
    let log_format = values.one("log.format", |text| Ok(text.to_owned()));
    let (seeds, advertise) = (values.all("mesh.seeds"), values.all("quic.advertise"));
    let store = values.one("registry.store", |text| Ok(text.to_owned()));
    let trust = values.one("registry.trust", |text| Ok(text.to_owned()));
    let ca = values.one("identity.ca", path);
    let ca_key = values.one("identity.ca_key", path);
    let cert_ttl = values.one("identity.cert_ttl", parse::duration);
    let admin = values.one("admin.unix", path);
    let token_file = values.one("admin.token_file", path);
    let max_tunnels = values.one("limits.max_tunnels", count);
    let max_tunnels_per_node = values.one("limits.max_tunnels_per_node", count);
    let max_streams = values.one("limits.max_streams", count);
    let drain_timeout = values.one("limits.drain_timeout", parse::duration);
    let compat = compat(&mut values);
    if let (Some(_), None, Some(chosen)) = (&ca_key, &ca, chosen.get("identity.ca_key")) {
        faults.push(fault(&chosen.origin, "identity.ca_key needs identity.ca beside it".into()));
    }
    if data_dir.is_none() {
        let what = "no place for the node's directory: neither HOME nor XDG_STATE_HOME is set".to_owned();
        faults.push(Fault { place: None, what, hint: Some("name one: --data-dir DIR".into()) });
    }
    let (tunnels, binds) = (offered(tunnels, &mut faults), bound(binds, &mut faults));
    if !faults.is_empty() {
        return Err(faults);
    }
    let held = "what has a default was found, or a fault was reported";
    Ok(Settings {
        chosen,
        files,
        name,
        data_dir: data_dir.expect(held),
        seeds,
        evict_after: evict_after.expect(held),
        listen: listen.expect(held),
        advertise,
        ca,
        ca_key,
        cert_ttl: cert_ttl.expect(held),
        in_memory: store.as_deref() == Some("memory"),
        signed: trust.as_deref() == Some("signed"),
        admin,
        http: http.flatten(),
        token_file,
        compat,
        log_level: log_level.expect(held),
        log_format: log_format.expect(held),
        max_tunnels: max_tunnels.expect(held),
        max_tunnels_per_node: max_tunnels_per_node.expect(held),
        max_streams: max_streams.expect(held),
        drain_timeout: drain_timeout.expect(held),
        tunnels,
        binds,
    })
}

/// How long a node may be down before it is evicted, if ever.
fn eviction(text: &str) -> Result<Option<Duration>, String> {
    match text {
        "off" => Ok(None),
        text => match parse::duration(text)? {
            short if short < MIN_EVICTION => Err("at least 10m, or off".to_owned()),
            after => Ok(Some(after)),
        },
    }
}

/// Either nothing of it or all.
fn compat(values: &mut Values<'_>) -> Option<CompatConfig> {
    const KEYS: [&str; 4] = ["compat.listen", "compat.cert", "compat.key", "compat.public"];
    let says = |chosen: &&Chosen| chosen.texts.iter().any(|text| !text.is_empty());
    let set = |key: &str| values.chosen.get(key).filter(says);
    let (there, chosen) = KEYS.iter().find_map(|key| Some((key, set(key)?)))?;
    for missing in KEYS.iter().filter(|key| set(key).is_none()) {
        let what = format!("{there} needs {missing} beside it");
        values.faults.push(fault(&chosen.origin, what));
    }
    let path = |text: &str| Ok(PathBuf::from(text));
    let listen = values.one("compat.listen", parse::listen);
    let certificate = values.one("compat.cert", path);
    let key = values.one("compat.key", path);
    let public = values.one("compat.public", |text| match text.parse::<Listen>() {
        Ok(Listen::Ports(ip, ports)) => Ok(PublicPorts { ip, ports }),
        Ok(Listen::Tcp(one)) if one.port() > 0 => {
            Ok(PublicPorts { ip: one.ip(), ports: one.port()..=one.port() })
        }
        _ => Err("is IP:FIRST-LAST or IP:PORT, an IPv6 in brackets".to_owned()),
    });
    Some(CompatConfig { listen: listen?, certificate: certificate?, key: key?, public: public? })
}

/// What was chosen, and what is wrong with it.
struct Values<'a> {
    chosen: &'a BTreeMap<&'static str, Chosen>,
    faults: &'a mut Vec<Fault>,
}

impl Values<'_> {
    fn one<T>(&mut self, key: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let Chosen { texts, origin } = self.chosen.get(key)?;
        let text = texts.first()?;
        let setting = table::find(key).expect("every key that is asked for is in the table");
        let known = match setting.kind {
            Kind::Word(words) if !words.contains(&text.as_str()) => {
                let near = crate::node::nearest::nearest(text, words.iter().copied());
                let near = near.map(|near| format!("; did you mean {near:?}?")).unwrap_or_default();
                Err(format!("is one of {}{near}", words.join(", ")))
            }
            Kind::Word(_) | Kind::Text | Kind::List | Kind::Number | Kind::Time => parse(text),
        };
        known.map_err(|error| self.faults.push(fault(origin, format!("{key} = {text:?}: {error}")))).ok()
    }

    fn all<T: FromStr>(&mut self, key: &str) -> Vec<T>
    where
        T::Err: std::fmt::Display,
    {
        let Some(Chosen { texts, origin }) = self.chosen.get(key) else { return Vec::new() };
        let mut all = Vec::new();
        for text in texts.iter().filter(|text| !text.is_empty()) {
            match text.parse() {
                Ok(value) => all.push(value),
                Err(error) => self.faults.push(fault(origin, format!("{key}: {text:?}: {error}"))),
            }
        }
        all
    }
}

fn count(text: &str) -> Result<NonZeroUsize, String> {
    text.parse().map_err(|_no_count| "is a whole number above zero".to_owned())
}

fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address = parse::listen(text)?;
    if address.ip().is_loopback() {
        return Ok(address);
    }
    Err("the admin API listens on loopback only: 127.0.0.1:PORT".to_owned())
}

fn offered(items: Vec<Item>, faults: &mut Vec<Fault>) -> BTreeMap<TunnelName, Offer> {
    let mut tunnels = BTreeMap::new();
    for Item { place, fields, attrs, health } in items {
        let name =
            field(&fields, "name", faults, |text| text.parse::<TunnelName>().map_err(|e| e.to_string()));
        let target = field(&fields, "target", faults, parse::target);
        let weight = match fields.contains_key("weight") {
            true => field(&fields, "weight", faults, |text| {
                text.parse().map_err(|error: NoWeight| error.to_string())
            }),
            false => Some(Weight::default()),
        };
        let attributes = attrs.into_iter().map(|(name, value)| (name, value.into_bytes())).collect();
        let attributes = Attributes::new(attributes);
        let attributes =
            attributes.map_err(|error| faults.push(Fault::at(&place, format!("attrs: {error}"))));
        let (Some(name), Some(target), Ok(attributes), Some(weight)) = (name, target, attributes, weight)
        else {
            continue;
        };
        if let Err(error) = check_reserved(&attributes) {
            faults.push(Fault::at(&place, format!("attrs: {error}")));
            continue;
        }
        let health = match health.map(|At { value, place }| (health_check(&value, &target), place)) {
            None => None,
            Some((Ok(check), _)) => Some(check),
            Some((Err(error), place)) => {
                faults.push(Fault::at(&place, error));
                continue;
            }
        };
        if tunnels.contains_key(&name) {
            faults.push(Fault::at(&place, format!("tunnel \"{name}\" is offered twice")));
            continue;
        }
        tunnels.insert(name, Offer { target, attributes, health, weight });
    }
    tunnels
}

/// The check that the table `health` describes.
fn health_check(table: &BTreeMap<&'static str, String>, target: &Target) -> Result<HealthCheck, String> {
    let text = |key: &str| table.get(key).cloned();
    let count = |key| {
        text(key).map(|number| {
            number.parse().map_err(|_large| format!("{key} is not a number that a health check has"))
        })
    };
    let needs = |key: &str| text(key).ok_or_else(|| format!("a health check of this kind needs {key}"));
    let kind = text("kind").ok_or("a health check has a kind: tcp, http or cmd")?;
    let (check, foreign) = match kind.as_str() {
        "http" => (format!("http:{}", needs("path")?), "command"),
        "cmd" => (format!("cmd:{}", needs("command")?), "path"),
        "tcp" if table.contains_key("path") => (kind.clone(), "path"),
        "tcp" => (kind.clone(), "command"),
        other => return Err(format!("the kind of a health check is tcp, http or cmd, not {other:?}")),
    };
    if table.contains_key(foreign) {
        return Err(format!("a health check of kind {kind} has no {foreign}"));
    }
    let (interval, timeout) = (text("interval"), text("timeout"));
    let (rise, fall) = (count("rise").transpose()?, count("fall").transpose()?);
    let words = api::HealthCheck { check, interval, timeout, rise, fall };
    HealthCheck::new(&words, target).map_err(|error| error.to_string())
}

fn bound(items: Vec<Item>, faults: &mut Vec<Fault>) -> BTreeMap<String, BindSetting> {
    let mut binds = BTreeMap::new();
    for Item { place, fields, .. } in items {
        let listen = field(&fields, "listen", faults, |text| {
            match text.parse::<Listen>().map_err(|error| error.to_string())? {
                Listen::Tcp(free) | Listen::Udp(free) if free.port() == 0 => {
                    Err("a bind of a configuration has a port of its own".to_owned())
                }
                listen => Ok(listen),
            }
        });
        let tunnel = field(&fields, "tunnel", faults, |text| {
            text.parse().map_err(|error: DestinationError| error.to_string())
        });
        let policy = match fields.contains_key("policy") {
            true => field(&fields, "policy", faults, |text| {
                text.parse().map_err(|error: ParsePolicyError| error.to_string())
            }),
            false => Some(Policy::default()),
        };
        let (Some(listen), Some(destination), Some(policy)) = (listen, tunnel, policy) else { continue };
        if binds.contains_key(&listen.to_string()) {
            faults.push(Fault::at(&place, format!("{listen} is bound twice")));
            continue;
        }
        binds.insert(listen.to_string(), BindSetting { listen, destination, policy });
    }
    binds
}

fn field<T>(
    fields: &BTreeMap<&'static str, At<String>>,
    name: &str,
    faults: &mut Vec<Fault>,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Option<T> {
    let At { value, place } = fields.get(name)?;
    let failed = |error| faults.push(Fault::at(place, format!("{name} = {value:?}: {error}")));
    parse(value).map_err(failed).ok()
}
