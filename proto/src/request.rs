//! The envelope around a command and around its answer.

use serde::Serialize;

use crate::command::{Command, CommandInfo, Empty, command_info};
use crate::error::QgaError;
use crate::json::{self, Text, to_wire, write_string};
use crate::output::Output;

/// A request whose envelope is in order; its arguments are read by whoever runs it.
#[derive(Debug)]
pub struct Request {
    text: Text,
    arguments: Option<usize>,
}

impl Request {
    /// Reads the arguments, with qemu-ga's checks and error texts.
    pub fn arguments<C: Command>(&self) -> Result<C, QgaError> {
        json::read_arguments(self.arguments.map(|at| self.text.value(at)))
    }

    /// How much memory the request holds, in bytes.
    pub(crate) fn size(&self) -> usize {
        self.text.bytes().len()
    }
}

/// How a command ended.
#[derive(Debug)]
pub enum Outcome {
    /// Success; the JSON text of the `return` member, as [`to_wire`] makes it.
    Return(Vec<u8>),
    /// Success of a command that does not answer it.
    Silent,
    /// Failure.
    Error(QgaError),
}

impl Outcome {
    /// Success with this value.
    pub fn value<T: Serialize + ?Sized>(value: &T) -> Self {
        Self::Return(to_wire(value))
    }

    /// Success with `{}`.
    pub fn empty() -> Self {
        Self::value(&Empty {})
    }
}

impl<T: Serialize> From<Result<T, QgaError>> for Outcome {
    fn from(result: Result<T, QgaError>) -> Self {
        match result {
            Ok(value) => Self::value(&value),
            Err(error) => Self::Error(error),
        }
    }
}

/// A text held against the rules for requests.
pub(crate) struct Envelope {
    /// What to echo: the `id` as QEMU would print it.
    pub(crate) id: Option<Vec<u8>>,
    pub(crate) content: Result<(&'static CommandInfo, Request), QgaError>,
}

impl Envelope {
    pub(crate) fn open(text: Text) -> Self {
        let root = text.root();
        let id = root.members().find(|(name, _)| name == "id").map(|(_, value)| {
            let mut id = Vec::new();
            value.write(&mut id);
            id
        });
        let content = match find_command(&text) {
            Ok((info, arguments)) => Ok((info, Request { arguments, text })),
            Err(error) => Err(error),
        };
        Self { id, content }
    }
}

fn find_command(text: &Text) -> Result<(&'static CommandInfo, Option<usize>), QgaError> {
    let root = text.root();
    if !root.is_object() {
        return Err(QgaError::generic("QMP input must be a JSON object"));
    }
    let mut command = None;
    let mut arguments = None;
    for (name, value) in root.members() {
        match &*name {
            "execute" => {
                command = Some(value.string().ok_or_else(|| {
                    QgaError::generic("QMP input member 'execute' must be a string")
                })?);
            }
            "arguments" if value.is_object() => arguments = Some(value.position()),
            "arguments" => {
                return Err(QgaError::generic("QMP input member 'arguments' must be an object"));
            }
            "id" => {}
            _ => {
                return Err(QgaError::generic(format!("QMP input member '{name}' is unexpected")));
            }
        }
    }
    let command = command.ok_or_else(|| QgaError::generic("QMP input lacks member 'execute'"))?;
    let info = command_info(&command).ok_or_else(|| QgaError::not_found(&command))?;
    Ok((info, arguments))
}

/// Appends the reply line for an outcome; nothing for [`Outcome::Silent`].
pub(crate) fn write_reply(output: &mut Output, outcome: Outcome, id: Option<&[u8]>) {
    match outcome {
        Outcome::Silent => {}
        Outcome::Return(value) => {
            output.gather(|out| out.extend_from_slice(b"{\"return\": "));
            output.push(value);
            output.gather(|out| {
                if let Some(id) = id {
                    out.extend_from_slice(b", \"id\": ");
                    out.extend_from_slice(id);
                }
                out.extend_from_slice(b"}\n");
            });
        }
        Outcome::Error(error) => output.gather(|out| {
            out.push(b'{');
            if let Some(id) = id {
                out.extend_from_slice(b"\"id\": ");
                out.extend_from_slice(id);
                out.extend_from_slice(b", ");
            }
            out.extend_from_slice(b"\"error\": {\"class\": ");
            write_string(out, error.class.as_str());
            out.extend_from_slice(b", \"desc\": ");
            write_string(out, &error.desc);
            if let Some(errno) = &error.errno {
                out.extend_from_slice(b", \"errno\": ");
                write_string(out, errno);
            }
            out.extend_from_slice(b"}}\n");
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::{Deframer, Framed};

    fn open(json: &str) -> Envelope {
        let mut input = json.as_bytes();
        let Some(Framed::Text(text)) = Deframer::new().next(&mut input) else { panic!("{json}") };
        Envelope::open(text)
    }

    fn refusal(json: &str) -> String {
        let envelope = open(json);
        let mut out = Output::default();
        let error = envelope.content.map(|(info, _)| info.name).unwrap_err();
        write_reply(&mut out, Outcome::Error(error), envelope.id.as_deref());
        String::from_utf8(out.slices().concat()).unwrap()
    }

    #[test]
    fn envelope_errors_are_qemu_gas_and_carry_the_id() {
        for (json, desc) in [
            ("[1,2]", "QMP input must be a JSON object"),
            ("12 ", "QMP input must be a JSON object"),
            ("\"abc\"", "QMP input must be a JSON object"),
            ("{}", "QMP input lacks member 'execute'"),
            ("{'execute': 1}", "QMP input member 'execute' must be a string"),
            (
                "{'execute': 'guest-ping', 'arguments': null}",
                "QMP input member 'arguments' must be an object",
            ),
            (
                "{'execute': 'guest-ping', 'arguments': []}",
                "QMP input member 'arguments' must be an object",
            ),
            (
                "{'execute': 'guest-ping', 'control': {}}",
                "QMP input member 'control' is unexpected",
            ),
            ("{'exec-oob': 'guest-ping'}", "QMP input member 'exec-oob' is unexpected"),
        ] {
            let line =
                format!("{{\"error\": {{\"class\": \"GenericError\", \"desc\": \"{desc}\"}}}}\n");
            assert_eq!(refusal(json), line);
        }
        assert_eq!(
            refusal("{'execute': 'guest-foo', 'id': [1, {'a': null}]}"),
            "{\"id\": [1, {\"a\": null}], \"error\": {\"class\": \"CommandNotFound\", \
             \"desc\": \"The command guest-foo has not been found\"}}\n"
        );
    }

    #[test]
    fn success_puts_the_id_behind_the_return() {
        let mut out = Output::default();
        write_reply(&mut out, Outcome::empty(), None);
        write_reply(&mut out, Outcome::value(&7), Some(b"\"x\""));
        write_reply(&mut out, Outcome::Silent, Some(b"1"));
        assert_eq!(out.slices().concat(), b"{\"return\": {}}\n{\"return\": 7, \"id\": \"x\"}\n");
    }
}
