//! Attributes.

use data_encoding::BASE64;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Paged;
use crate::crdt::Value;
use crate::replica;

/// `GET /v1/attributes`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AttributeList {
    /// [`API_VERSION`](super::API_VERSION).
    pub api_version: String,
    /// The attributes, by key.
    pub attributes: Vec<Attribute>,
    /// The last of these keys, if there are more: ask for those `after` it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next: Option<String>,
}

impl Paged for AttributeList {
    fn next(&self) -> Option<&str> {
        self.next.as_deref()
    }

    fn append(&mut self, page: Self) {
        self.attributes.extend(page.attributes);
        self.next = page.next;
    }
}

/// One attribute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Attribute {
    /// Its full name.
    pub key: String,
    /// The value that a read finds.
    pub value: Bytes,
    /// The values that were written concurrently with it and lost, best first.
    pub siblings: Vec<Bytes>,
    /// When the winning value was written.
    pub written_at: u64,
    /// The id of the node that wrote it.
    pub author: String,
}

/// Bytes: always in base64, and as text where they are one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Bytes {
    /// RFC 4648, with padding.
    pub base64: String,
    /// The same, if it is UTF-8.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub text: Option<String>,
}

/// What a `PUT` or `DELETE` of an attribute did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Write {
    /// [`API_VERSION`](super::API_VERSION).
    pub api_version: String,
    /// The attribute.
    pub key: String,
    /// Whether that changed anything.
    pub changed: bool,
}

impl From<&[u8]> for Bytes {
    fn from(bytes: &[u8]) -> Self {
        Self { base64: BASE64.encode(bytes), text: std::str::from_utf8(bytes).ok().map(str::to_owned) }
    }
}

impl From<&Value> for Bytes {
    fn from(value: &Value) -> Self {
        value.as_bytes().into()
    }
}

impl Bytes {
    /// The bytes themselves; nothing if the base64 is damaged.
    pub fn decode(&self) -> Option<Vec<u8>> {
        BASE64.decode(self.base64.as_bytes()).ok()
    }
}

impl From<&replica::Attribute> for Attribute {
    fn from(attribute: &replica::Attribute) -> Self {
        Self {
            key: attribute.key.to_string(),
            value: (&attribute.value).into(),
            siblings: attribute.siblings.iter().map(Bytes::from).collect(),
            written_at: attribute.stamp.to_wall().0,
            author: attribute.author.node.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(value: &impl Serialize) -> String {
        serde_json::to_string(value).unwrap()
    }

    #[test]
    fn bytes_are_base64_and_text_only_where_they_are_one() {
        let text = Bytes::from("grün".as_bytes());
        assert_eq!(json(&text), r#"{"base64":"Z3LDvG4=","text":"grün"}"#);
        let binary = Bytes::from([0xff, 0x00].as_slice());
        assert_eq!(json(&binary), r#"{"base64":"/wA="}"#);
        assert_eq!(binary.decode().unwrap(), [0xff, 0x00]);
    }
}
