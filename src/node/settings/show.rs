//! The settings for people and for editors.

use serde_json::{Map, Value, json};

use super::table::{Kind, SETTINGS, Setting};
use super::{BindSetting, Chosen, Settings};
use crate::mesh::{Policy, Weight};
use crate::node::api;

impl Settings {
    /// What holds, and where it comes from: key, value, origin.
    pub(in crate::node) fn rows(&self) -> Vec<[String; 3]> {
        let mut rows: Vec<[String; 3]> = Vec::new();
        for setting in SETTINGS {
            let (value, origin) = match self.chosen.get(setting.key) {
                Some(chosen) => (shown(setting, chosen), chosen.origin.to_string()),
                None => (self.derived(setting.key), "default".to_owned()),
            };
            rows.push([setting.key.to_owned(), value, origin]);
        }
        rows
    }

    /// What holds where nobody chose and the table has no default.
    fn derived(&self, key: &str) -> String {
        match key {
            "node.name" => format!("{:?}", self.name),
            "node.data_dir" => format!("{:?}", self.data_dir.display().to_string()),
            "admin.unix" => format!("{:?}", self.data_dir.join("admin.sock").display().to_string()),
            "admin.token_file" => format!("{:?}", self.data_dir.join("admin.token").display().to_string()),
            "mesh.seeds" | "quic.advertise" => "[]".to_owned(),
            _ => "\"\"".to_owned(),
        }
    }

    /// All of it, as a file that says the same.
    pub(in crate::node) fn to_toml(&self) -> String {
        let (mut text, mut section) = (String::new(), "");
        let rows = self.rows();
        let width =
            SETTINGS.iter().zip(&rows).map(|(setting, row)| setting.name().len() + row[1].len()).max();
        let width = width.unwrap_or(0).min(48) + 3;
        for (setting, [_, value, origin]) in SETTINGS.iter().zip(&rows) {
            if setting.section() != section {
                section = setting.section();
                text += &format!("{}[{section}]\n", if text.is_empty() { "" } else { "\n" });
            }
            let line = format!("{} = {value}", setting.name());
            text += &format!("{line:width$}  # {origin}\n");
        }
        for (name, tunnel) in &self.tunnels {
            let quoted = |value: &[u8]| format!("{:?}", String::from_utf8_lossy(value));
            let attrs = tunnel.attributes.iter().map(|(name, value)| format!("{name} = {}", quoted(value)));
            let attrs: Vec<_> = attrs.collect();
            text += &format!("\n[[tunnel]]\nname = \"{name}\"\ntarget = \"{}\"\n", tunnel.target);
            if !attrs.is_empty() {
                text += &format!("attrs = {{ {} }}\n", attrs.join(", "));
            }
            if tunnel.weight != Weight::default() {
                text += &format!("weight = {}\n", tunnel.weight);
            }
            if let Some(check) = &tunnel.health {
                text += &health(&check.words());
            }
        }
        for BindSetting { listen, destination, policy } in self.binds.values() {
            text += &format!("\n[[bind]]\nlisten = \"{listen}\"\ntunnel = \"{destination}\"\n");
            if *policy != Policy::default() {
                text += &format!("policy = \"{policy}\"\n");
            }
        }
        text
    }
}

/// The line of a health check, all of it.
fn health(words: &api::HealthCheck) -> String {
    let (kind, rest) = words.check.split_once(':').unwrap_or((&words.check, ""));
    let rest = match kind {
        "http" => format!(", path = {rest:?}"),
        "cmd" => format!(", command = {rest:?}"),
        _ => String::new(),
    };
    let time = |time: &Option<String>| time.clone().unwrap_or_default();
    let (rise, fall) = (words.rise.unwrap_or_default(), words.fall.unwrap_or_default());
    let (interval, timeout) = (time(&words.interval), time(&words.timeout));
    format!(
        "health = {{ kind = \"{kind}\"{rest}, interval = \"{interval}\", timeout = \"{timeout}\", rise = {rise}, fall = {fall} }}\n"
    )
}

fn shown(setting: &Setting, chosen: &Chosen) -> String {
    let quoted = chosen.texts.iter().map(|text| format!("{text:?}")).collect::<Vec<_>>();
    match setting.kind {
        Kind::List => format!("[{}]", quoted.join(", ")),
        Kind::Number => chosen.texts.concat(),
        Kind::Text | Kind::Time | Kind::Word(_) => quoted.concat(),
    }
}

/// The JSON schema of a configuration file, for editors.
pub(in crate::node) fn schema() -> Value {
    let mut sections: Map<String, Value> = Map::new();
    for setting in SETTINGS {
        let mut property = match setting.kind {
            Kind::Text => json!({ "type": "string" }),
            Kind::List => json!({ "type": "array", "items": { "type": "string" } }),
            Kind::Number => json!({ "type": "integer", "minimum": 1 }),
            Kind::Time => json!({ "type": "string", "pattern": "^[0-9]+(ms|s|m|h)?$" }),
            Kind::Word(words) => json!({ "enum": words }),
        };
        let reload = if setting.live { "A reload makes it hold." } else { "Holds after a restart." };
        property["description"] = format!("{}. {reload} Environment: {}.", setting.help, setting.env).into();
        if !setting.default.is_empty() {
            property["default"] = match setting.kind {
                Kind::Number => setting.default.parse::<u64>().unwrap_or_default().into(),
                Kind::Text | Kind::List | Kind::Time | Kind::Word(_) => setting.default.into(),
            };
        }
        let section = sections
            .entry(setting.section())
            .or_insert_with(|| json!({ "type": "object", "additionalProperties": false, "properties": {} }));
        section["properties"][setting.name()] = property;
    }
    let text = json!({ "type": "string" });
    let list = |properties: Value, required: &[&str]| {
        json!({ "type": "array", "items": {
            "type": "object", "additionalProperties": false, "properties": properties, "required": required,
        } })
    };
    let attrs = json!({ "type": "object", "additionalProperties": text });
    let count = json!({ "type": "integer", "minimum": 1, "maximum": 100 });
    let health = json!({
        "type": "object", "additionalProperties": false, "required": ["kind"],
        "properties": {
            "kind": { "enum": ["tcp", "http", "cmd"] }, "path": text, "command": text,
            "interval": text, "timeout": text, "rise": count, "fall": count,
        },
    });
    let weight = json!({ "type": "integer", "minimum": 1, "maximum": Weight::MAX });
    let tunnel = json!({ "name": text, "target": text, "attrs": attrs, "health": health, "weight": weight });
    sections.insert("tunnel".into(), list(tunnel, &["name", "target"]));
    sections.insert(
        "bind".into(),
        list(json!({ "listen": text, "tunnel": text, "policy": text }), &["listen", "tunnel"]),
    );
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "snomesh.toml",
        "type": "object",
        "additionalProperties": false,
        "properties": sections,
    })
}
