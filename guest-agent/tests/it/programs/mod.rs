//! `x-guest-exec-…`: programs that are read and written while they run, and that end with all they
//! have started.

use qga_proto::QgaError;
use qga_proto::base64::Base64Text;
use qga_proto::command::{
    CaptureOutput, Command, Known, OutputStream, XExecForget, XExecInput, XExecList, XExecOutput,
    XExecProgram, XExecRead, XExecStart, XExecWait, XExecWrite,
};
use rustix::process::{Pid, test_kill_process};
use serde_json::{Value, json};

use crate::bed::{Client, wait_for};

mod ends;
mod frozen;
mod input;
mod limits;
mod output;
mod start;
mod terminal;
mod waits;

pub(crate) fn call<C: Command>(client: &mut Client, arguments: &C) -> Result<C::Return, QgaError> {
    let request = json!({"execute": C::INFO.name, "arguments": arguments});
    let mut answer: Value = serde_json::from_str(&client.ask(format!("{request}\n"))).unwrap();
    match answer["error"].take() {
        Value::Null => Ok(serde_json::from_value(answer["return"].take()).unwrap()),
        error => Err(serde_json::from_value(error).unwrap()),
    }
}

/// Text and number of what must be an error.
fn refused<C: Command>(client: &mut Client, arguments: &C) -> (String, String) {
    match call(client, arguments) {
        Err(error) => (error.desc, error.errno.unwrap_or_default()),
        Ok(_) => panic!("{} was not refused", C::INFO.name),
    }
}

/// A script whose output is kept, streams apart.
pub(crate) fn sh(script: &str) -> XExecStart {
    XExecStart {
        argv: ["sh", "-c", script].map(str::to_owned).into(),
        capture_output: Some(CaptureOutput::Separated),
        ..XExecStart::default()
    }
}

pub(crate) fn start(client: &mut Client, arguments: &XExecStart) -> i64 {
    call(client, arguments).unwrap().handle
}

fn programs(client: &mut Client) -> Vec<XExecProgram> {
    call(client, &XExecList {}).unwrap().programs
}

fn state(client: &mut Client, handle: i64) -> XExecProgram {
    programs(client).into_iter().find(|program| program.handle == handle).unwrap()
}

fn read(client: &mut Client, handle: i64, stream: OutputStream, offset: u64) -> XExecOutput {
    call(client, &XExecRead { handle, stream, offset, count: Some(1 << 20) }).unwrap()
}

fn write(client: &mut Client, handle: i64, offset: u64, bytes: &[u8], close: bool) -> XExecInput {
    let buf_b64 = Base64Text::new(bytes);
    call(client, &XExecWrite { handle, offset, buf_b64, close: Some(close) }).unwrap()
}

fn forget(client: &mut Client, handle: i64) {
    call(client, &XExecForget { handle }).unwrap();
}

/// Waits as a client does, until one of the programs has news.
fn news(client: &mut Client, known: Known) -> XExecProgram {
    let wait = XExecWait { programs: vec![known], wait_ms: 10_000 };
    let mut ready = call(client, &wait).unwrap().ready;
    ready.pop().expect("news within 10 s")
}

/// Standard output from the beginning until this text is in it.
fn output_until(client: &mut Client, handle: i64, text: &str) -> String {
    let mut output = Vec::new();
    wait_for(text, || {
        let offset = output.len() as u64;
        let wait = Known { handle, stdout: Some(offset), ..Known::default() };
        news(client, wait);
        let read = read(client, handle, OutputStream::Stdout, offset);
        assert_eq!(read.offset, offset);
        output.extend(read.buf_b64.0);
        let output = String::from_utf8_lossy(&output).into_owned();
        assert!(!read.eof || output.contains(text), "{output:?} has no {text:?}");
        output.contains(text).then_some(output)
    })
}

/// Both streams to their ends, and then the program's own.
fn result(client: &mut Client, handle: i64) -> (String, String, XExecProgram) {
    let mut streams = [OutputStream::Stdout, OutputStream::Stderr].map(|stream| {
        let mut bytes = Vec::new();
        loop {
            let offset = bytes.len() as u64;
            let known = Known { handle, ..Known::default() };
            news(
                client,
                match stream {
                    OutputStream::Stdout => Known { stdout: Some(offset), ..known },
                    OutputStream::Stderr => Known { stderr: Some(offset), ..known },
                },
            );
            let read = read(client, handle, stream, offset);
            assert_eq!(read.offset, offset);
            bytes.extend(read.buf_b64.0);
            if read.eof {
                return String::from_utf8(bytes).unwrap();
            }
        }
    });
    let end = news(client, Known { handle, end: Some(true), ..Known::default() });
    let [stdout, stderr] = streams.each_mut().map(std::mem::take);
    (stdout, stderr, end)
}

/// Runs a script to its end.
fn run(client: &mut Client, arguments: &XExecStart) -> (String, String, XExecProgram) {
    let handle = start(client, arguments);
    let result = result(client, handle);
    forget(client, handle);
    result
}

fn is_alive(pid: i64) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map(|(_, rest)| rest.as_bytes()[0]);
    let exists = test_kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap()).is_ok();
    exists && !matches!(state, None | Some(b'Z' | b'X'))
}

fn wait_for_death(pid: i64) {
    wait_for("a death", || (!is_alive(pid)).then_some(()));
}
