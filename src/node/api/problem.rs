//! What went wrong.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An error: RFC 9457, `application/problem+json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// What kind of error, for programs.
    pub code: Code,
    /// What is wrong, in one sentence.
    pub title: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub hint: Option<String>,
    /// After how many milliseconds the same may be tried again; in whole seconds it is the header `Retry-After`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub retry_after_ms: Option<u64>,
    /// The number of the request, as the node's log has it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub request_id: Option<String>,
}

/// What kind of error, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Code {
    /// A key, a name, an address or a body is not legal.
    Invalid,
    /// A value or a body is over its limit.
    TooLarge,
    /// There is no such thing.
    NotFound,
    /// There is no such method for this path.
    MethodNotAllowed,
    /// No token was shown, or a wrong one.
    Unauthorized,
    /// Whoever asks may not do that, or not from there.
    Forbidden,
    /// Something else is in the way, for instance on an address.
    Conflict,
    /// The configuration is not valid.
    Configuration,
    /// What was asked for is there, and cannot be reached.
    Unreachable,
    /// It took too long.
    TimedOut,
    /// More is written than the mesh takes: again after `retry_after_ms`.
    Busy,
    /// The disk is full: the node is read only.
    NoRoom,
    /// The node is not ready, or stops.
    Unavailable,
    /// A bug.
    #[serde(other)]
    Internal,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(value: &impl Serialize) -> String {
        serde_json::to_string(value).unwrap()
    }

    #[test]
    fn problems_have_codes_for_programs() {
        let problem = Problem {
            status: 404,
            code: Code::NotFound,
            title: "no tunnel \"web\"".into(),
            hint: None,
            retry_after_ms: None,
            request_id: None,
        };
        assert_eq!(json(&problem), r#"{"status":404,"code":"not_found","title":"no tunnel \"web\""}"#);
    }
}
