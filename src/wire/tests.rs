use proptest::prelude::*;

use super::message::{decode_body, encode_body};
use super::*;
use crate::crdt::{CausalContext, Class, Delta, Entry, Item, Key, Lane, Observed, RangeSet, Value};
use crate::gossip::{Message, Versions};
use crate::id::{Actor, Generation, NodeId};
use crate::time::{Timestamp, UnixMillis};

fn any_lane() -> impl Strategy<Value = Lane> {
    (0u8..4, prop_oneof![0u64..4, 0..=MAX_GENERATION], any::<bool>()).prop_map(
        |(node, generation, attribute)| {
            let actor = Actor { node: NodeId::from_bytes([node; 32]), generation: Generation(generation) };
            Lane::new(actor, if attribute { Class::Attribute } else { Class::Registry })
        },
    )
}

fn any_counters(least: usize) -> impl Strategy<Value = RangeSet> {
    let first = prop_oneof![1u64..100, Just(MAX_COUNTER - 7)];
    prop::collection::vec((first, 0u64..6), least..5)
        .prop_map(|ranges| ranges.into_iter().map(|(first, more)| first..=first + more).collect())
}

fn any_context() -> impl Strategy<Value = CausalContext> {
    prop::collection::vec((any_lane(), any_counters(1)), 0..6).prop_map(|lanes| lanes.into_iter().collect())
}

fn any_item() -> impl Strategy<Value = Item> {
    let value = prop::option::of(prop::collection::vec(any::<u8>(), 0..40));
    let observed = prop::collection::vec((any_lane(), 1u64..9), 0..3);
    let entry = (any_lane(), 1..=MAX_COUNTER, observed, any::<u64>(), value);
    ("[a-z0-9._:@-]{1,20}", prop::collection::vec(entry, 1..4)).prop_filter_map(
        "legal key",
        |(key, entries)| {
            let key: Key = key.parse().ok()?;
            let mut entries: Vec<Entry> = entries
                .into_iter()
                .map(|(lane, counter, observed, stamp, value)| {
                    let observed = Observed::new(observed.into_iter().filter(|(seen, _)| *seen != lane));
                    let value = value.map(|bytes| Value::try_from(&bytes[..]).unwrap());
                    Entry::new(&key, lane.dot(counter), observed, Timestamp(stamp), value)
                })
                .collect();
            entries.sort_by(|left, right| left.dot.cmp(&right.dot));
            entries.dedup_by(|left, right| left.dot == right.dot);
            Some(Item { key, entries: entries.into_iter().collect() })
        },
    )
}

fn any_message() -> impl Strategy<Value = Message> {
    let want = prop::collection::btree_map(any_lane(), any_counters(0), 0..5);
    prop_oneof![
        (0u8..9, 0u8..9, 0..=MAX_GENERATION, any::<[u8; 16]>(), any::<u64>()).prop_map(
            |(min, more, life, digest, wall)| {
                let versions = Versions { min, max: min + more };
                Message::Hello { versions, generation: Generation(life), digest, wall: UnixMillis(wall) }
            }
        ),
        (any::<bool>(), any_context()).prop_map(|(complete, seen)| Message::Context { complete, seen }),
        want.prop_map(|lanes| Message::Want { lanes: lanes.into_iter().collect() }),
        (any_context(), prop::collection::vec(any_item(), 0..5))
            .prop_map(|(accounted, items)| Message::Delta(Delta { accounted, items })),
        any::<([u8; 16], bool)>().prop_map(|(digest, asks)| Message::Heartbeat { digest, asks }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn every_message_survives_its_bytes(message in any_message()) {
        prop_assert_eq!(decode(&encode(&message)), Ok(message));
    }

    /// SCENARIOS G-01.
    #[test]
    fn a_flipped_bit_is_found_wherever_it_is(message in any_message(), at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let mut frame = encode(&message);
        let at = at.index(frame.len());
        frame[at] ^= 1 << bit;
        prop_assert_eq!(decode(&frame), Err(Malformed::Checksum));
    }

    /// What is accepted has one form; what is not gives a typed error. Never a panic.
    #[test]
    fn damaged_bytes_are_refused_or_are_the_one_form_of_another_message(
        message in any_message(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = encode_body(&message);
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(message) = decode_body(&bytes) {
            prop_assert_eq!(encode_body(&message), bytes);
        }
    }

    #[test]
    fn noise_is_refused(kind in 0u8..7, noise in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut bytes = vec![kind];
        bytes.extend(noise);
        if let Ok(message) = decode_body(&bytes) {
            prop_assert_eq!(encode_body(&message), bytes);
        }
    }
}

#[test]
fn a_frames_length_is_checked_before_anything_is_allocated() {
    assert_eq!(body_len(header(MAX_FRAME).unwrap()), Ok(MAX_FRAME));
    assert!(matches!(header(MAX_FRAME + 1), Err(Malformed::OverLimit { .. })));
    let over = u32::try_from(MAX_FRAME + 1).unwrap().to_le_bytes();
    assert!(matches!(body_len(over), Err(Malformed::OverLimit { .. })));
}

#[test]
fn a_delta_may_not_name_actors_that_it_does_not_need() {
    let message = Message::Context { complete: true, seen: CausalContext::new() };
    let mut bytes = encode_body(&message);
    assert_eq!(bytes, [2, 1, 0, 0]);
    bytes.truncate(2);
    bytes.push(1);
    bytes.extend([7; 32]);
    bytes.extend([1, 0]);
    assert_eq!(decode_body(&bytes), Err(Malformed::NotCanonical));
}

#[test]
fn an_unknown_message_is_named() {
    assert_eq!(decode_body(&[99]), Err(Malformed::Unknown { what: "message", tag: 99 }));
    assert_eq!(decode_body(&[]), Err(Malformed::Truncated));
    assert_eq!(decode(&[1, 2, 3]), Err(Malformed::Truncated));
}

/// The overhead of an item in a batch of one author: the design allows payload + 12 bytes.
#[test]
fn an_item_costs_its_payload_and_little_more() {
    let actor = Actor { node: NodeId::from_bytes([1; 32]), generation: Generation(1 << 50) };
    let lane = Lane::new(actor, Class::Attribute);
    let delta = |count: u64| {
        let items = (1..=count).map(|number| {
            let key: Key = format!("attr/mesh/key-{number:08}").parse().unwrap();
            let value = Value::try_from(&[7; 32][..]).unwrap();
            let entry = Entry::new(
                &key,
                lane.dot(number),
                Observed::default(),
                Timestamp((1 << 58) + number),
                Some(value),
            );
            Item { key, entries: [entry].into_iter().collect() }
        });
        let accounted = CausalContext::from_iter([(lane.clone(), RangeSet::up_to(count))]);
        encode(&Message::Delta(Delta { accounted, items: items.collect() })).len()
    };
    let (none, many) = (delta(0), delta(200));
    assert_eq!((many - none) / 200 - 22 - 32, 11);
}
