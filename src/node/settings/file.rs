//! What stands in a configuration file, and where in it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Fault;
use super::table::{self, BIND_KEYS, HEALTH_KEYS, Kind, OPTIONAL_KEYS, SETTINGS, TUNNEL_KEYS};
use crate::node::nearest::nearest;

/// A place in a file, as editors jump to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::node) struct Place {
    pub(in crate::node) file: Arc<PathBuf>,
    line: usize,
    column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file.display(), self.line, self.column)
    }
}

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) place: Place,
}

/// An entry of a list of tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) place: Place,
    pub(super) fields: BTreeMap<&'static str, At<String>>,
    pub(super) attrs: BTreeMap<String, String>,
    pub(super) health: Option<At<BTreeMap<&'static str, String>>>,
}

/// What a file says.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) values: BTreeMap<&'static str, At<Vec<String>>>,
    pub(super) tunnels: Vec<Item>,
    pub(super) binds: Vec<Item>,
}

/// Reads what a file says; everything that is wrong with it goes to `faults`.
pub(super) fn parse(path: &Path, text: &str, faults: &mut Vec<Fault>) -> Contents {
    let reader = Reader { file: Arc::new(path.into()), text };
    let mut contents = Contents::default();
    match DeTable::parse(text) {
        Ok(root) => reader.root(root.get_ref(), &mut contents, faults),
        Err(error) => {
            let at = error.span().map_or(0, |span| span.start);
            faults.push(Fault::at(&reader.place(at), format!("not TOML: {}", error.message())));
        }
    }
    contents
}

struct Reader<'a> {
    file: Arc<PathBuf>,
    text: &'a str,
}

type Key<'a> = Spanned<std::borrow::Cow<'a, str>>;
type Val<'a> = Spanned<DeValue<'a>>;

impl Reader<'_> {
    fn place(&self, offset: usize) -> Place {
        let before = self.text.get(..offset).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Place {
            file: Arc::clone(&self.file),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }

    fn unknown<'c>(
        &self,
        key: &Key<'_>,
        within: &str,
        known: impl Iterator<Item = &'c str> + Clone,
    ) -> Fault {
        let name = key.get_ref();
        let what = format!("unknown key {name:?}{within}");
        let fault = Fault::at(&self.place(key.span().start), what);
        match nearest(name, known.clone()) {
            Some(near) => fault.hint(format!("did you mean {near:?}?")),
            None => fault.hint(format!("known are: {}", known.collect::<Vec<_>>().join(", "))),
        }
    }

    fn root(&self, root: &DeTable<'_>, contents: &mut Contents, faults: &mut Vec<Fault>) {
        for (key, value) in root {
            match (key.get_ref().as_ref(), value.get_ref()) {
                ("tunnel", DeValue::Array(items)) => {
                    contents.tunnels = self.items(items.iter(), "[[tunnel]]", TUNNEL_KEYS, faults);
                }
                ("bind", DeValue::Array(items)) => {
                    contents.binds = self.items(items.iter(), "[[bind]]", BIND_KEYS, faults);
                }
                (name @ ("tunnel" | "bind"), _) => {
                    let what = format!("{name} is a list of tables");
                    faults.push(
                        Fault::at(&self.place(key.span().start), what).hint(format!("write [[{name}]]")),
                    );
                }
                (section, DeValue::Table(table)) if table::sections().any(|known| known == section) => {
                    self.section(section, table, contents, faults);
                }
                (section, _) if table::sections().any(|known| known == section) => {
                    let what = format!("{section} is a table");
                    faults.push(
                        Fault::at(&self.place(key.span().start), what).hint(format!("write [{section}]")),
                    );
                }
                _ => {
                    let known: Vec<&str> = table::sections().chain(["tunnel", "bind"]).collect();
                    faults.push(self.unknown(key, "", known.iter().copied()));
                }
            }
        }
    }

    fn section(&self, section: &str, table: &DeTable<'_>, contents: &mut Contents, faults: &mut Vec<Fault>) {
        for (key, value) in table {
            let full = format!("{section}.{}", key.get_ref());
            let Some(setting) = table::find(&full) else {
                let known = SETTINGS.iter().filter(|setting| setting.section() == section);
                let known: Vec<&str> = known.map(table::Setting::name).collect();
                faults.push(self.unknown(key, &format!(" in [{section}]"), known.iter().copied()));
                continue;
            };
            match self.value(setting.kind, value) {
                Ok(found) => {
                    let place = self.place(value.span().start);
                    contents.values.insert(setting.key, At { value: found, place });
                }
                Err(wanted) => {
                    faults.push(Fault::at(&self.place(value.span().start), format!("{full} is {wanted}")));
                }
            }
        }
    }

    /// A value as texts, which are taken apart where they are used.
    fn value(&self, kind: Kind, value: &Val<'_>) -> Result<Vec<String>, &'static str> {
        match (kind, value.get_ref()) {
            (Kind::Text | Kind::Time | Kind::Word(_), DeValue::String(text)) => Ok(vec![text.to_string()]),
            (Kind::Number, DeValue::Integer(number)) => Ok(vec![number.to_string()]),
            (Kind::List, DeValue::Array(items)) => {
                let texts = items.iter().map(|item| match item.get_ref() {
                    DeValue::String(text) => Ok(text.to_string()),
                    _ => Err("a list of texts: [\"…\", \"…\"]"),
                });
                texts.collect()
            }
            (Kind::List, _) => Err("a list of texts: [\"…\", \"…\"]"),
            (Kind::Number, _) => Err("a whole number"),
            (Kind::Time, _) => Err("a duration in quotes: \"500ms\", \"10s\", \"2m\""),
            (Kind::Text | Kind::Word(_), _) => Err("a text in quotes"),
        }
    }

    fn items<'v>(
        &self,
        items: impl Iterator<Item = &'v Val<'v>>,
        within: &str,
        known: &'static [&'static str],
        faults: &mut Vec<Fault>,
    ) -> Vec<Item> {
        let mut read = Vec::new();
        for item in items {
            let place = self.place(item.span().start);
            let DeValue::Table(table) = item.get_ref() else {
                faults.push(Fault::at(&place, format!("an entry of {within} is a table")));
                continue;
            };
            let mut fields = BTreeMap::new();
            let (mut attrs, mut health) = (BTreeMap::new(), None);
            for (key, value) in table {
                let here = self.place(value.span().start);
                let field = known.iter().find(|known| **known == key.get_ref().as_ref());
                match (field, value.get_ref()) {
                    (None, _) => {
                        faults.push(self.unknown(key, &format!(" in {within}"), known.iter().copied()));
                    }
                    (Some(&"attrs"), DeValue::Table(table)) => {
                        for (name, value) in table {
                            let DeValue::String(value) = value.get_ref() else {
                                let at = self.place(value.span().start);
                                faults.push(Fault::at(&at, "an attribute is a text in quotes"));
                                continue;
                            };
                            attrs.insert(name.get_ref().to_string(), value.to_string());
                        }
                    }
                    (Some(&"attrs"), _) => {
                        faults.push(Fault::at(&here, "attrs is a table: { env = \"prod\" }"));
                    }
                    (Some(&"health"), DeValue::Table(table)) => {
                        health = Some(At { value: self.health(table, faults), place: here });
                    }
                    (Some(&"health"), _) => {
                        faults.push(Fault::at(&here, "health is a table: { kind = \"tcp\" }"));
                    }
                    (Some(field @ &"weight"), DeValue::Integer(number)) => {
                        fields.insert(*field, At { value: number.to_string(), place: here });
                    }
                    (Some(&"weight"), _) => faults.push(Fault::at(&here, "weight is a whole number")),
                    (Some(field), DeValue::String(text)) => {
                        fields.insert(*field, At { value: text.to_string(), place: here });
                    }
                    (Some(field), _) => faults.push(Fault::at(&here, format!("{field} is a text in quotes"))),
                }
            }
            for field in known.iter().filter(|field| !OPTIONAL_KEYS.contains(field)) {
                if !fields.contains_key(field) {
                    faults.push(Fault::at(&place.clone(), format!("{field} is missing in {within}")));
                }
            }
            read.push(Item { place, fields, attrs, health });
        }
        read
    }

    /// The fields of a health check, as texts.
    fn health(&self, table: &DeTable<'_>, faults: &mut Vec<Fault>) -> BTreeMap<&'static str, String> {
        let mut fields = BTreeMap::new();
        for (key, value) in table {
            let here = self.place(value.span().start);
            let field = HEALTH_KEYS.iter().find(|known| **known == key.get_ref().as_ref());
            match (field, value.get_ref()) {
                (None, _) => faults.push(self.unknown(key, " in health", HEALTH_KEYS.iter().copied())),
                (Some(field @ (&"rise" | &"fall")), DeValue::Integer(number)) => {
                    fields.insert(*field, number.to_string());
                }
                (Some(field @ (&"rise" | &"fall")), _) => {
                    faults.push(Fault::at(&here, format!("{field} is a whole number")));
                }
                (Some(field), DeValue::String(text)) => {
                    fields.insert(*field, text.to_string());
                }
                (Some(field), _) => faults.push(Fault::at(&here, format!("{field} is a text in quotes"))),
            }
        }
        fields
    }
}
