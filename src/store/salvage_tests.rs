//! Tests of the search: what is whole is found wherever it lies, and nothing else comes out of any bytes.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::store::block::Encoder;
use crate::store::log::Log;

const NAMES: [&str; 2] = ["attempts", "created"];

fn answer_record(request: u8, content: &str) -> Found {
    let key = [keys::JOURNAL, &[request; 32]].concat();
    let head = JournalV1 {
        content: content.into(),
        finish_reason: crate::model::llm::FinishReason::Stop,
        usage: crate::model::payload::Usage::default(),
        model: "llama".into(),
        parts: 0,
    };
    let value = codec::encode(&key, &head).unwrap();
    (key, value)
}

fn meta_record(name: &str, value: &str) -> Found {
    let key = keys::meta(name);
    let value = codec::encode(&key, &MetaV1 { value: value.as_bytes().to_vec() }).unwrap();
    (key, value)
}

/// A block and a place of the log as they lie in the database's file.
fn sealed(answers: &[Found]) -> (Vec<u8>, Vec<u8>) {
    let records: Vec<_> = answers.iter().map(|(key, value)| (key.clone(), Value::from(value.clone()))).collect();
    let (_, block) = Encoder::new().encode(&records).unwrap();
    let mut raw = Writes::new();
    let records = answers.iter().map(|(key, value)| (key.as_slice(), Some(value.as_slice())));
    Log::default().append(records, &mut raw).unwrap();
    let place = raw.remove(&keys::log_place(0)).flatten().unwrap();
    (block.to_vec(), place.to_vec())
}

fn some_answers() -> Vec<Found> {
    (1..20).map(|n| answer_record(n, &format!("answer {n} ").repeat(9))).collect()
}

#[test]
fn records_are_found_wherever_they_lie() {
    let answers = some_answers();
    let (block, place) = sealed(&answers);
    let account = meta_record(&record_name(3), r#"{"format":1,"number":3}"#);
    let (attempts, other) = (meta_record("attempts", "3"), meta_record("plan", "{}"));
    let state = StateV1 { format: FORMAT, id: [7; 16], epoch: 99 };
    let store = (keys::STORE.to_vec(), codec::encode(keys::STORE, &state).unwrap());
    let noise: Vec<u8> = (0..=255).collect();
    for bytes in [&block, &place] {
        let all =
            [&noise, bytes, &attempts.1, &noise, &other.1, &account.1, &store.1, &noise].map(Vec::as_slice).concat();
        let found = records_in(&all, &NAMES);
        assert_eq!(found[..answers.len()], answers);
        assert_eq!(found[answers.len()..], [attempts.clone(), account.clone(), store.clone()]);
        assert_eq!(
            records_in(&all, &[])[answers.len()..],
            *std::slice::from_ref(&store),
            "named values only if they are asked for"
        );
    }
}

proptest! {
    #[test]
    fn any_bytes_are_searched_without_a_panic(bytes in vec(any::<u8>(), 0..600), kind in 0..14_u8, at in 0..600_usize) {
        let mut bytes = bytes;
        // Something that looks like the beginning of a value, anywhere.
        for (n, byte) in [VERSION, kind, 0, 0, 0, 0, 2, 0, b'j', b'/', 1].into_iter().enumerate() {
            if let Some(place) = bytes.get_mut(at + n) {
                *place = byte;
            }
        }
        prop_assert_eq!(records_in(&bytes, &NAMES), []);
    }

    /// What is damaged is lost, or what was read before the damage is found; nothing else comes out than what was put in.
    #[test]
    fn damaged_values_give_what_is_whole_and_nothing_else(
        in_block in any::<bool>(),
        damage in vec((any::<proptest::sample::Index>(), 1..=255_u8), 1..4),
        cut in any::<proptest::sample::Index>(),
    ) {
        let answers = some_answers();
        let (block, place) = sealed(&answers);
        let mut bytes = if in_block { block } else { place };
        for (at, flip) in damage {
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
        }
        bytes.truncate(cut.index(bytes.len() * 2));
        for found in records_in(&bytes, &NAMES) {
            prop_assert!(answers.contains(&found));
        }
    }
}

#[test]
fn one_flipped_byte_of_the_log_costs_one_answer() {
    let answers = some_answers();
    let (_, place) = sealed(&answers);
    for at in 0..place.len() {
        let mut bytes = place.clone();
        bytes[at] ^= 0x41;
        assert!(records_in(&bytes, &NAMES).len() >= answers.len() - 1, "byte {at}");
    }
}

#[test]
fn the_account_that_is_furthest_on_is_taken_wherever_it_lies() {
    let dir = tempfile::tempdir().unwrap();
    let [source, target] = ["source", "target"].map(|name| dir.path().join(name));
    for folder in [&source, &target] {
        fs::create_dir(folder).unwrap();
    }
    let account = |rest: &str| meta_record(&record_name(3), &format!(r#"{{"format":1,"number":3,{rest}}}"#));
    let closed = account(r#""seconds":61.5,"ended":"2026-01-01T00:00:00Z""#);
    let [open, older] = [61.5, 41.25].map(|seconds| account(&format!(r#""seconds":{seconds},"ended":null"#)));
    let [newest, former] = ["13", "9"].map(|number| meta_record("attempts", number));
    // Behind what a segment was written anew with lies what it held before.
    let noise: Vec<u8> = (0..=255).collect();
    let bytes = [&closed.1, &newest.1, &open.1, &older.1, &former.1].map(|value| [&noise[..], value].concat()).concat();
    fs::write(source.join("db"), bytes).unwrap();
    let table = rebuild::create(&target, OpenOptions::default()).unwrap();
    add(&source, &table, &NAMES, |_| {}).unwrap();
    for (key, value) in [closed, newest] {
        assert_eq!(table.get(&key).unwrap().as_deref(), Some(&value[..]));
    }
}
