use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::crdt::{
    CausalContext, Class, Delta, Entry, Item, Key, Lane, Observed, RangeSet, Reconciliation, Seal, Value,
};
use crate::gossip::{Ask, Message, Outcome, Record, Summary, Tell, Versions};
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

fn any_plain_context() -> impl Strategy<Value = CausalContext> {
    prop::collection::vec((any_lane(), any_counters(1)), 0..6).prop_map(|lanes| lanes.into_iter().collect())
}

fn any_past() -> impl Strategy<Value = Lane> {
    (0u8..6, prop_oneof![0u64..4, 0..=MAX_GENERATION])
        .prop_map(|(node, generation)| Lane::past(NodeId::from_bytes([node; 32]), Generation(generation)))
}

fn any_context() -> impl Strategy<Value = CausalContext> {
    (any_plain_context(), prop::collection::vec(any_past(), 0..3)).prop_map(|(mut context, pasts)| {
        for past in pasts {
            context.insert(&past.dot(1));
        }
        context
    })
}

fn any_item() -> impl Strategy<Value = Item> {
    let value = prop::option::of(prop::collection::vec(any::<u8>(), 0..40));
    let observed = prop::collection::vec((any_lane(), 1u64..9), 0..3);
    let observed = (observed, prop::collection::vec(any_past(), 0..2)).prop_map(|(mut observed, pasts)| {
        observed.extend(pasts.into_iter().map(|past| (past, 1)));
        observed
    });
    let entry = (any_lane(), 1..=MAX_COUNTER, observed, any::<u64>(), value);
    ("[a-z0-9._:@-]{1,20}", prop::collection::vec(entry, 1..4)).prop_filter_map(
        "legal key",
        |(key, entries)| {
            let key: Key = key.parse().ok()?;
            let mut entries: Vec<Entry> = entries
                .into_iter()
                .map(|(lane, counter, observed, stamp, value)| {
                    let observed = Observed::new(
                        observed.into_iter().filter(|(seen, _)| *seen != lane && !seen.buries(&lane)),
                    );
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

fn any_seals() -> impl Strategy<Value = Vec<Arc<Seal>>> {
    let seal =
        (any_lane(), 1..=MAX_COUNTER - 16, prop::collection::vec(any::<[u8; 16]>(), 1..=16), any::<u8>());
    let seal = seal.prop_map(|(lane, first, hashes, salt)| {
        let key = *lane.actor().node.as_bytes();
        Arc::new(Seal { lane, first, hashes: hashes.into(), key, signature: [salt; 64] })
    });
    prop_oneof![
        2 => Just(Vec::new()),
        1 => prop::collection::btree_set(seal, 0..5).prop_map(|seals| seals.into_iter().collect()),
    ]
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
        (any_plain_context(), prop::collection::vec(any_item(), 0..5), any_seals())
            .prop_map(|(accounted, items, seals)| Message::Delta(Delta { accounted, items, seals })),
        any::<([u8; 16], bool)>().prop_map(|(digest, asks)| Message::Heartbeat { digest, asks }),
        any::<bool>().prop_map(|wanted| Message::Neighbour { wanted }),
        any::<u64>().prop_map(|weight| Message::Taken { weight }),
        prop::collection::btree_set(any_lane(), 0..5)
            .prop_map(|lanes| Message::Prune { lanes: lanes.into_iter().collect() }),
        prop::collection::btree_map(any_lane(), any::<u64>(), 0..5)
            .prop_map(|probes| Message::Probe { probes: probes.into_iter().collect() }),
        any_floors().prop_map(|floors| Message::Offer { floors }),
        (any::<u64>(), any_ask()).prop_map(|(number, ask)| Message::Ask { number, ask }),
        (any::<u64>(), any_tell()).prop_map(|(number, tell)| Message::Tell { number, tell }),
    ]
}

fn any_floors() -> impl Strategy<Value = CausalContext> {
    let floors = prop::collection::vec((any_lane(), 1..=MAX_COUNTER), 0..6);
    (floors, prop::collection::vec(any_past(), 0..3)).prop_map(|(floors, pasts)| {
        let pasts = pasts.into_iter().map(|past| (past, 1));
        floors.into_iter().chain(pasts).map(|(lane, floor)| (lane, RangeSet::up_to(floor))).collect()
    })
}

fn any_key() -> impl Strategy<Value = Key> {
    "[ab]{1,3}(/[a-z0-9]{0,6})?".prop_map(|key| key.parse().unwrap())
}

fn any_ask() -> impl Strategy<Value = Ask> {
    let summary = prop_oneof![
        Just(Summary::Agreed),
        any::<[u8; 8]>().prop_map(Summary::Hash),
        any_context().prop_map(Summary::Dots),
    ];
    let bounds = prop::collection::btree_map(any_key(), summary.clone(), 0..8);
    let ranges = (any::<bool>(), bounds, prop::option::of(summary)).prop_map(|(begins, bounds, end)| {
        let mut bounds = bounds.into_iter().map(|(until, summary)| (Some(until), summary));
        let from = if begins { bounds.next().and_then(|(from, _)| from) } else { None };
        let ranges = bounds.chain(end.map(|summary| (None, summary))).collect();
        Ask::Ranges { from, ranges }
    });
    prop_oneof![
        prop::option::of(any_lane()).prop_map(|after| Ask::Context { after }),
        prop::option::of(any_lane()).prop_map(|after| Ask::Floors { after }),
        ranges,
    ]
}

fn any_tell() -> impl Strategy<Value = Tell> {
    let outcome = prop_oneof![Just(Outcome::Same), Just(Outcome::Differs), Just(Outcome::Told)];
    let items = prop::collection::vec(any_item(), 0..5);
    prop_oneof![
        (any_context(), any::<bool>()).prop_map(|(seen, last)| Tell::Context { seen, last }),
        (any_floors(), any::<u64>(), any::<bool>()).prop_map(|(floors, horizon, last)| Tell::Floors {
            floors,
            horizon: Timestamp(horizon),
            last
        }),
        (prop::collection::vec(outcome, 0..6), items, any_context(), any_seals())
            .prop_map(|(outcomes, items, dead, seals)| Tell::Ranges { outcomes, items, dead, seals }),
    ]
}

fn any_record() -> impl Strategy<Value = Record> {
    let items = || prop::collection::vec(any_item(), 0..5);
    let dead = prop::collection::vec((any_key(), any_lane(), 1..=MAX_COUNTER), 0..5);
    prop_oneof![
        (any_context(), items(), any_seals()).prop_map(|(accounted, items, seals)| Record::Delta(Delta {
            accounted,
            items,
            seals
        })),
        prop::collection::vec(any_key(), 0..5).prop_map(Record::Collected),
        (any_context(), items(), any_floors(), any::<u64>(), dead, any_seals()).prop_map(
            |(accounted, items, floors, horizon, dead, seals)| {
                let dead = dead.into_iter().map(|(key, lane, counter)| (key, lane.dot(counter))).collect();
                let (delta, horizon) = (Delta { accounted, items, seals }, Timestamp(horizon));
                Record::Reconciled(Box::new(Reconciliation { delta, floors, horizon, dead }))
            }
        ),
    ]
}

fn encode_body(message: &Message) -> Vec<u8> {
    Encoder::new().encode_body(message)
}

fn decode_body(bytes: &[u8]) -> Result<Message, Malformed> {
    Decoder::new().decode_body(bytes)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn every_message_survives_its_bytes(message in any_message()) {
        prop_assert_eq!(decode(&encode(&message)), Ok(message));
    }

    #[test]
    fn every_record_survives_its_bytes_and_no_damage_does(record in any_record(), at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let mut bytes = encode_record(&record);
        prop_assert_eq!(decode_record(&bytes), Ok(record));
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert_eq!(decode_record(&bytes), Err(Malformed::Checksum));
    }

    /// SCENARIOS G-01.
    #[test]
    fn a_flipped_bit_is_found_wherever_it_is(message in any_message(), at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let mut frame = encode(&message);
        let at = at.index(frame.len());
        frame[at] ^= 1 << bit;
        prop_assert_eq!(decode(&frame), Err(Malformed::Checksum), "{} bytes", frame.len());
    }

    #[test]
    fn every_conversation_survives_its_bytes_and_has_one_form(messages in prop::collection::vec(any_message(), 1..12)) {
        let (mut writer, mut reader, mut again) = (Encoder::new(), Decoder::new(), Encoder::new());
        for message in messages {
            let frame = writer.encode(&message);
            let read = reader.decode(&frame);
            prop_assert_eq!(read.as_ref(), Ok(&message));
            prop_assert_eq!(again.encode(&message), frame);
        }
    }

    /// What is accepted in the middle of a conversation has one form there.
    #[test]
    fn damaged_bytes_within_a_conversation_are_refused_or_are_another_message(
        before in prop::collection::vec(any_message(), 0..6),
        message in any_message(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let (mut writer, mut reader) = (Encoder::new(), Decoder::new());
        for message in &before {
            prop_assert!(reader.decode_body(&writer.encode_body(message)).is_ok());
        }
        let mut bytes = writer.clone().encode_body(&message);
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(message) = reader.decode_body(&bytes) {
            prop_assert_eq!(writer.encode_body(&message), bytes);
        }
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
    fn noise_is_refused(kind in 0u8..12, noise in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut bytes = vec![kind];
        bytes.extend(noise);
        if let Ok(message) = decode_body(&bytes) {
            prop_assert_eq!(encode_body(&message), bytes);
        }
    }
}

#[test]
fn a_frames_length_has_one_form_and_is_checked_before_anything_is_allocated() {
    let read = |bytes: &[u8]| match *bytes {
        [a, b] => body_len([a, b], None),
        [a, b, c, d] => body_len([a, b], Some([c, d])),
        _ => panic!("a header has two or four bytes"),
    };
    for (len, bytes) in [(0, 2), (32_767, 2), (32_768, 4), (MAX_FRAME, 4)] {
        let header = header(len).unwrap();
        assert_eq!((header.len(), read(&header)), (bytes, Ok(Some(len))));
    }
    assert!(matches!(header(MAX_FRAME + 1), Err(Malformed::OverLimit { .. })));
    assert!(matches!(read(&[0xff; 4]), Err(Malformed::OverLimit { .. })));
    assert_eq!(read(&[0, 0x80]), Ok(None), "two more are to follow");
    assert_eq!(read(&[1, 0x80, 0, 0]), Err(Malformed::NotCanonical));
}

#[test]
fn a_frame_may_not_spell_out_lanes_that_it_does_not_need() {
    let message = Message::Context { complete: true, seen: CausalContext::new() };
    let mut bytes = encode_body(&message);
    assert_eq!(bytes, [2, 1, 0, 0]);
    bytes.truncate(2);
    bytes.extend([1, 0]);
    bytes.extend([7; 32]);
    bytes.extend([1, 0]);
    assert_eq!(decode_body(&bytes), Err(Malformed::NotCanonical));
}

/// The bytes that docs/PROTOCOL.md describes.
#[test]
fn a_past_is_a_lane_with_a_name_above_all_others_and_one_dot() {
    let past = Lane::past(NodeId::from_bytes([7; 32]), Generation(5));
    let seen = CausalContext::from_iter([(past.clone(), RangeSet::up_to(1))]);
    let bytes = encode_body(&Message::Context { complete: true, seen: seen.clone() });
    let mut expected = vec![2, 1, 1, 0];
    expected.extend([7; 32]);
    expected.push(253);
    expected.extend(((1u64 << 62) + 5).to_le_bytes());
    expected.extend([1, 1]);
    assert_eq!(bytes, expected);

    let with = |last: &[u8]| [&bytes[..bytes.len() - 1], last].concat();
    assert_eq!(decode_body(&with(&[0, 8])), Err(Malformed::Illegal { what: "a past" }));
    assert_eq!(decode_body(&with(&[0, 4])), Err(Malformed::NotCanonical), "it has a shorter form");
    let delta = Message::Delta(Delta { accounted: seen, ..Delta::default() });
    assert_eq!(decode_body(&encode_body(&delta)), Err(Malformed::Illegal { what: "a delta" }));
    let lane =
        Lane::new(Actor { node: NodeId::from_bytes([7; 32]), generation: Generation(5) }, Class::Attribute);
    let key: Key = "k".parse().unwrap();
    for (dot, observed) in [(past.dot(1), None), (lane.dot(1), Some((past, 1)))] {
        let entry = Entry::new(&key, dot, Observed::new(observed), Timestamp(1), None);
        let items = vec![Item { key: key.clone(), entries: [entry].into_iter().collect() }];
        let delta = Message::Delta(Delta { items, ..Delta::default() });
        assert!(matches!(decode_body(&encode_body(&delta)), Err(Malformed::Illegal { .. })));
    }
}

fn context(lanes: std::ops::Range<u64>) -> Message {
    let lane = |number: u64| {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&number.to_be_bytes());
        let actor = Actor { node: NodeId::from_bytes(id), generation: Generation(1) };
        (Lane::new(actor, Class::Registry), RangeSet::up_to(1))
    };
    Message::Context { complete: false, seen: lanes.map(lane).collect() }
}

/// FEATURES S6.
#[test]
fn a_lane_is_spelled_out_once() {
    let mut writer = Encoder::new();
    // Tag, complete, new lanes, lanes, and per lane which it is, and how far it was seen if that is not one further than
    // before; the checksum.
    assert_eq!(writer.encode(&context(0..10)).len(), 4 + 10 * (34 + 1) + 4);
    assert_eq!(writer.encode(&context(0..10)).len(), 4 + 10 * 2 + 4);
    assert_eq!(writer.encode(&context(5..15)).len(), 4 + 5 * (34 + 1) + 5 * 2 + 4);
}

/// FEATURES S6: the other lane of an actor costs a number, in the same frame and in another; and has no second form.
#[test]
fn the_other_lane_of_an_actor_is_not_spelled_out() {
    let lane =
        |class| Lane::new(Actor { node: NodeId::from_bytes([7; 32]), generation: Generation(5) }, class);
    let both = [Class::Registry, Class::Attribute].map(lane);
    let seen = |lanes: &[Lane]| {
        let seen = lanes.iter().map(|lane| (lane.clone(), RangeSet::up_to(1))).collect();
        Message::Context { complete: false, seen }
    };
    let mut writer = Encoder::new();
    assert_eq!(writer.encode(&seen(&both)).len(), 4 + 34 + 1 + 2 + 4);
    let (mut writer, mut reader) = (Encoder::new(), Decoder::new());
    let (first, second) = (writer.encode(&seen(&both[1..])), writer.encode_body(&seen(&both[..1])));
    assert_eq!((first.len(), second.len()), (4 + 34 + 1 + 4, 4 + 1 + 1));
    assert_eq!(reader.decode(&first), Ok(seen(&both[1..])));
    let spelled = encode_body(&seen(&both[..1]));
    assert_eq!(reader.clone().decode_body(&spelled), Err(Malformed::NotCanonical));
    assert_eq!(reader.decode_body(&second), Ok(seen(&both[..1])));
    // Of a lane that has no other, and of one that there is not.
    let past = seen(&[Lane::past(NodeId::from_bytes([9; 32]), Generation(5))]);
    assert_eq!(reader.decode(&writer.encode(&past)), Ok(past));
    for number in [3, 9] {
        let mut damaged = second.clone();
        damaged[3] = number;
        assert!(matches!(reader.clone().decode_body(&damaged), Err(Malformed::Illegal { .. })), "{number}");
    }
}

/// FEATURES S6: what stands around a write that travels alone, after another of its author's a tenth of a second before, to a
/// key with the same beginning: without the frame's length, 10 bytes and what is new of the key.
#[test]
fn a_write_that_travels_alone_has_a_short_form_and_no_other() {
    let lane =
        Lane::new(Actor { node: NodeId::from_bytes([7; 32]), generation: Generation(5) }, Class::Attribute);
    let write = |counter: u64, name: &str| {
        let key: Key = format!("attr/mesh/{name}").parse().unwrap();
        let (stamp, value) =
            (Timestamp((1 << 58) + ((counter * 100) << 16)), Value::try_from(&[7; 100][..]).unwrap());
        let entry = Entry::new(&key, lane.dot(counter), Observed::default(), stamp, Some(value));
        let accounted = CausalContext::from_iter([(lane.clone(), [counter..=counter].into_iter().collect())]);
        Delta { accounted, items: vec![Item { key, entries: [entry].into_iter().collect() }], seals: vec![] }
    };
    let (mut writer, mut reader) = (Encoder::new(), Decoder::new());
    for (counter, name, rest) in
        [(1, "a", None), (2, "abc", Some(2)), (3, "abd", Some(1)), (4, "abd", Some(0)), (5, "b", Some(1))]
    {
        let message = Message::Delta(write(counter, name));
        let frame = writer.encode(&message);
        if let Some(rest) = rest {
            // Tag, lane, counter, stamp, two of the key, its rest, the value, the checksum.
            assert_eq!(frame.len(), 1 + 1 + 1 + 3 + 2 + rest + 100 + 4, "{name}");
        }
        for at in 0..frame.len() {
            let mut damaged = frame.clone();
            damaged[at] ^= 1 << (at % 8);
            assert!(reader.clone().decode(&damaged).is_err(), "a bit of byte {at} of {}", frame.len());
        }
        assert_eq!(reader.decode(&frame), Ok(message));
    }
    // The long form of what has a short one; and a key that spells out what it has in common with the last one.
    let (mut before, frame) = (reader.clone(), writer.encode(&Message::Delta(write(6, "c"))));
    let (dot, stamp, value) = (&frame[1..3], &frame[3..6], &frame[9..109]);
    let long = |key: &[u8]| {
        [&[4, 0, 0, 1], key, &[1], dot, &[1], stamp, &[100], value, &frame[109..], &[0]].concat()
    };
    assert_eq!(frame[6..9], *b"\x0a\x01c");
    assert_eq!(before.clone().decode_body(&long(&frame[6..9])), Err(Malformed::NotCanonical));
    assert_eq!(before.decode_body(&long(b"\x09\x02/c")), Err(Malformed::NotCanonical));
}

/// A peer cannot make us remember more than the limit, and both ends forget at the same frame.
#[test]
fn memory_for_names_is_bounded_at_both_ends() {
    let (mut writer, mut reader) = (Encoder::new(), Decoder::new());
    for first in (0..3 * MAX_NAMES as u64).step_by(1_000) {
        let message = context(first..first + 1_000);
        assert_eq!(reader.decode(&writer.encode(&message)), Ok(message));
        assert!(writer.remembered() <= MAX_NAMES && reader.remembered() <= MAX_NAMES);
        assert_eq!(writer.remembered(), reader.remembered());
    }
    let known = context(0..10);
    assert_eq!(reader.decode(&writer.encode(&known)), Ok(known), "what was forgotten is spelled out again");
}

#[test]
fn a_lane_that_has_a_number_is_not_spelled_out_again() {
    let mut reader = Decoder::new();
    let first = encode_body(&context(0..1));
    assert!(reader.decode_body(&first).is_ok());
    assert_eq!(reader.decode_body(&first), Err(Malformed::NotCanonical));
}

#[test]
fn a_number_that_no_lane_has_is_refused() {
    let mut bytes = encode_body(&context(0..1));
    // No number lies below it.
    let number = bytes.len() - 1;
    assert_eq!(bytes[number], 1);
    bytes[number] = 3;
    assert_eq!(decode_body(&bytes), Err(Malformed::Illegal { what: "number of a lane" }));
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
        encode(&Message::Delta(Delta { accounted, items: items.collect(), seals: vec![] })).len()
    };
    let (one, many) = (delta(1), delta(201));
    // The number, the first byte that differs, and 11 more; now and then a second digit differs.
    assert_eq!(many - one, 200 * (1 + 1 + 32 + 11) + 22);
}

/// Without seals a delta has the bytes that it had before there were any; what a seal adds is known.
#[test]
fn seals_cost_nothing_where_there_are_none() {
    let actor = Actor { node: NodeId::from_bytes([1; 32]), generation: Generation(1) };
    let lane = Lane::new(actor, Class::Attribute);
    let seal = |first, count| {
        let hashes = vec![[7; 16]; count].into();
        Arc::new(Seal { lane: lane.clone(), first, hashes, key: [1; 32], signature: [9; 64] })
    };
    let with = |seals| {
        let accounted = CausalContext::from_iter([(lane.clone(), RangeSet::up_to(40))]);
        encode_body(&Message::Delta(Delta { accounted, items: vec![], seals })).len()
    };
    let none = with(vec![]);
    assert_eq!(with(vec![seal(1, 16)]) - none, 1 + (1 + 32) + 1 + 1 + 16 * 16 + 64);
    assert_eq!(with(vec![seal(1, 16), seal(17, 1)]) - with(vec![seal(1, 16)]), 1 + 1 + 1 + 16 + 64);
}

#[test]
fn seals_out_of_order_or_of_nothing_are_no_message() {
    let actor = Actor { node: NodeId::from_bytes([1; 32]), generation: Generation(1) };
    let lane = Lane::new(actor, Class::Attribute);
    let seal = |first, count| {
        let hashes = vec![[7; 16]; count].into();
        Arc::new(Seal { lane: lane.clone(), first, hashes, key: [1; 32], signature: [9; 64] })
    };
    let read = |seals| decode_body(&encode_body(&Message::Delta(Delta { seals, ..Delta::default() })));
    assert!(read(vec![seal(1, 16), seal(2, 1)]).is_ok());
    assert_eq!(read(vec![seal(2, 1), seal(1, 16)]), Err(Malformed::NotCanonical));
    assert_eq!(read(vec![seal(1, 1), seal(1, 1)]), Err(Malformed::NotCanonical));
    assert_eq!(read(vec![seal(1, 0)]), Err(Malformed::Illegal { what: "a seal" }));
    assert_eq!(read(vec![seal(0, 1)]), Err(Malformed::Illegal { what: "a seal" }));
    assert_eq!(read(vec![seal(MAX_COUNTER, 2)]), Err(Malformed::Illegal { what: "a seal" }));
    assert!(read(vec![seal(1, 17)]).is_err());
}
