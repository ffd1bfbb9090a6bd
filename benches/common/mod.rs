//! What the benchmarks of the core write: keys and values as in the budgets.

use snomesh::crdt::Value;
use snomesh::replica::AttributeKey;

/// A key of 22 bytes in the store.
pub(crate) fn key(number: usize) -> AttributeKey {
    format!("mesh/key-{number:08}").parse().expect("a legal key")
}

/// A value of 32 bytes.
pub(crate) fn value(number: usize) -> Value {
    let mut bytes = [7; 32];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    Value::try_from(&bytes[..]).expect("32 bytes are a legal value")
}
