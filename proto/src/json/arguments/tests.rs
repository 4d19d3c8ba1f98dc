//! The checks, in qemu-ga's order and words.

use serde::Deserialize;

use super::super::deframer::{Deframer, Framed};
use super::*;
use crate::command::{
    Command, GuestFileRead, GuestFileSeek, GuestFileWrite, GuestFsfreezeFreezeList, GuestPing,
    GuestShutdown, GuestSync, ShutdownMode, Whence,
};

fn arguments<T: de::DeserializeOwned>(json: &str) -> Result<T, String> {
    let mut input = json.as_bytes();
    let Some(Framed::Text(text)) = Deframer::new().next(&mut input) else { panic!("{json}") };
    read(Some(text.root())).map_err(|error| error.desc)
}

fn refusal<C: Command + fmt::Debug>(json: &str) -> String {
    arguments::<C>(json).unwrap_err()
}

#[test]
fn missing_and_unexpected_members_are_named() {
    assert_eq!(refusal::<GuestSync>("{}"), "Parameter 'id' is missing");
    assert_eq!(refusal::<GuestSync>("{'foo': 1}"), "Parameter 'id' is missing");
    assert_eq!(refusal::<GuestSync>("{'foo': 1, 'id': 1}"), "Parameter 'foo' is unexpected");
    assert_eq!(refusal::<GuestPing>("{'foo': 1}"), "Parameter 'foo' is unexpected");
    assert!(read::<GuestPing>(None).is_ok());
    assert!(read::<GuestSync>(None).is_err());
}

#[test]
fn types_are_checked_in_the_order_of_the_schema() {
    let expected = |name: &str, expected: &str| {
        format!("Invalid parameter type for '{name}', expected: {expected}")
    };
    assert_eq!(refusal::<GuestSync>("{'id': '1'}"), expected("id", "integer"));
    assert_eq!(refusal::<GuestSync>("{'id': 1.0}"), expected("id", "integer"));
    assert_eq!(refusal::<GuestSync>("{'id': null}"), expected("id", "integer"));
    assert_eq!(
        refusal::<GuestFileRead>("{'handle': 1, 'count': null}"),
        expected("count", "integer")
    );
    assert_eq!(
        refusal::<GuestFileWrite>("{'buf-b64': 1, 'handle': 'x'}"),
        expected("handle", "integer")
    );
    assert_eq!(
        refusal::<GuestFileWrite>("{'buf-b64': 1, 'handle': 1}"),
        expected("buf-b64", "string")
    );
    assert_eq!(
        refusal::<GuestFsfreezeFreezeList>("{'mountpoints': '/'}"),
        expected("mountpoints", "array")
    );
    assert_eq!(
        refusal::<GuestFsfreezeFreezeList>("{'mountpoints': ['/', 1]}"),
        expected("mountpoints[1]", "string")
    );
}

#[test]
fn integers_have_64_bits() {
    let id = |json: &str| arguments::<GuestSync>(json).map(|sync| sync.id);
    assert_eq!(id("{'id': -9223372036854775808}"), Ok(i64::MIN));
    assert_eq!(id("{'id': 9223372036854775807}"), Ok(i64::MAX));
    assert_eq!(id("{'id': -0}"), Ok(0));
    for json in ["{'id': 9223372036854775808}", "{'id': 18446744073709551615}", "{'id': 1e3}"] {
        assert_eq!(id(json), Err("Invalid parameter type for 'id', expected: integer".into()));
    }
}

#[test]
fn alternates_are_named_in_type_errors_and_not_in_value_errors() {
    let seek = |whence: &str| {
        arguments::<GuestFileSeek>(&format!("{{'handle': 1, 'offset': 0, 'whence': {whence}}}"))
            .map(|seek| seek.whence)
    };
    assert_eq!(seek("'end'"), Ok(Whence::End));
    assert_eq!(seek("7"), Ok(Whence::Number(7)));
    assert_eq!(seek("'foo'"), Err("Parameter 'whence' does not accept value 'foo'".into()));
    // A number has chosen the integer among the alternatives.
    for json in ["1.0", "9223372036854775808"] {
        let text = "Invalid parameter type for 'whence', expected: integer";
        assert_eq!(seek(json), Err(text.into()), "{json}");
    }
    for json in ["true", "null", "[]", "{}"] {
        assert_eq!(
            seek(json),
            Err("Invalid parameter type for 'whence', expected: GuestFileWhence".into()),
            "{json}"
        );
    }
    assert_eq!(
        arguments::<GuestFileSeek>("{'handle': 1, 'offset': 0}").unwrap_err(),
        "Parameter 'whence' is missing"
    );
}

#[test]
fn a_shutdown_mode_is_any_string() {
    let mode = |json: &str| arguments::<GuestShutdown>(json).map(|shutdown| shutdown.mode);
    assert_eq!(mode("{}"), Ok(None));
    assert_eq!(mode("{'mode': 'halt'}"), Ok(Some(ShutdownMode::Halt)));
    assert_eq!(mode("{'mode': 'foo'}"), Ok(Some(ShutdownMode::Other("foo".into()))));
    assert_eq!(
        mode("{'mode': 1}"),
        Err("Invalid parameter type for 'mode', expected: string".into())
    );
}

#[test]
fn nested_objects_and_enumerations_are_located() {
    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Colour {
        Red,
    }
    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "kebab-case")]
    struct Cpu {
        logical_id: i64,
        online: bool,
        colour: Option<Colour>,
    }
    #[derive(Debug, Deserialize)]
    struct Cpus {
        vcpus: Vec<Cpu>,
    }
    let cpus = |json: &str| arguments::<Cpus>(json);
    let fine = cpus("{'vcpus': [{'logical-id': 1, 'online': true, 'colour': 'red'}]}").unwrap();
    assert_eq!((fine.vcpus[0].logical_id, fine.vcpus[0].online), (1, true));
    assert_eq!(fine.vcpus[0].colour, Some(Colour::Red));
    for (json, text) in [
        ("{'vcpus': [1]}", "Invalid parameter type for 'vcpus[0]', expected: object"),
        ("{'vcpus': [{'online': true}]}", "Parameter 'vcpus[0].logical-id' is missing"),
        (
            "{'vcpus': [{'logical-id': 1, 'online': 1}]}",
            "Invalid parameter type for 'vcpus[0].online', expected: boolean",
        ),
        (
            "{'vcpus': [{'logical-id': 1, 'online': true, 'colour': 'blue'}]}",
            "Parameter 'vcpus[0].colour' does not accept value 'blue'",
        ),
        (
            "{'vcpus': [{'logical-id': 1, 'online': true, 'x': 1}]}",
            "Parameter 'vcpus[0].x' is unexpected",
        ),
    ] {
        assert_eq!(cpus(json).unwrap_err(), text);
    }
}
