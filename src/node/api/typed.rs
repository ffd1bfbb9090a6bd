//! Counters and sets.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Bytes, Paged};

/// `GET /v1/counters`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CounterList {
    /// [`API_VERSION`](super::API_VERSION).
    pub api_version: String,
    /// The counters, by key.
    pub counters: Vec<Counter>,
    /// There are more: ask for those `after` this.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next: Option<String>,
}

impl Paged for CounterList {
    fn next(&self) -> Option<&str> {
        self.next.as_deref()
    }

    fn append(&mut self, page: Self) {
        self.counters.extend(page.counters);
        self.next = page.next;
    }
}

/// One counter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Counter {
    /// Its full name.
    pub key: String,
    /// Its value, in decimal: it may have more digits than a number of JSON holds everywhere.
    pub value: String,
}

/// The body of `POST /v1/counters/{key}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Increment {
    /// What to add; below zero it is taken away.
    pub by: i64,
}

/// `GET /v1/sets`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SetList {
    /// [`API_VERSION`](super::API_VERSION).
    pub api_version: String,
    /// The sets that have elements, by key.
    pub sets: Vec<SetSize>,
    /// There are more: ask for those `after` this.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next: Option<String>,
}

impl Paged for SetList {
    fn next(&self) -> Option<&str> {
        self.next.as_deref()
    }

    fn append(&mut self, page: Self) {
        self.sets.extend(page.sets);
        self.next = page.next;
    }
}

/// One set and how many elements it has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SetSize {
    /// Its full name.
    pub key: String,
    /// How many elements it has.
    pub elements: usize,
}

/// `GET /v1/sets/{key}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Members {
    /// [`API_VERSION`](super::API_VERSION).
    pub api_version: String,
    /// The set.
    pub key: String,
    /// Its elements, in an order that is the same on all nodes.
    pub members: Vec<Bytes>,
    /// There are more: ask for those `after` this.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next: Option<String>,
}

impl Paged for Members {
    fn next(&self) -> Option<&str> {
        self.next.as_deref()
    }

    fn append(&mut self, page: Self) {
        self.members.extend(page.members);
        self.next = page.next;
    }
}

/// The body of `POST /v1/sets/{key}`: one of the two.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum SetChange {
    /// Add an element, given in base64.
    Add(String),
    /// Remove an element, given in base64.
    Remove(String),
}
