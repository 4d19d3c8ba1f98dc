//! Programs in a guest, by its real agent or a stock one on this machine.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::Stdio;

use qga_e2e::until;

use super::{Cli, Ran, signal};
use crate::fleet::{SOON, gateway_program};
use crate::processes::Here;

fn start() -> Option<(Here, Cli)> {
    let here = Here::start("")?;
    let cli = Cli::new(&gateway_program().unwrap(), here.gateway.socket());
    Some((here, cli))
}

#[test]
fn output_comes_apart_and_the_programs_code_is_ours() {
    let Some((_here, cli)) = start() else { return };
    let ran = cli.run(["exec", "vm", "--", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((ran.code, &*ran.out, &*ran.err), (Some(7), "out\n", "err\n"));
    let killed = cli.run(["exec", "vm", "--", "sh", "-c", "kill -TERM $$"]);
    assert_eq!(killed.code, Some(143), "{killed:?}");
    let script = "pwd; echo $0 $1; env | grep -v ^_ | grep -v ^PWD | grep -v ^SHLVL";
    let arguments = ["exec", "vm", "--cwd", "/usr", "--env", "A=b c", "--"];
    let ran = cli.run(arguments.into_iter().chain(["/bin/sh", "-c", script, "x", "y z"]));
    assert_eq!(ran.ok(), "/usr\nx y z\nA=b c\n");
    let late = cli.run(["exec", "vm", "--timeout", "1", "--", "sleep", "1000"]);
    late.fails(137, &["its time was over"]);

    cli.run(["exec", "nobody", "--", "true"]).fails(255, &["[vm_not_found]"]);
    cli.run(["exec", "vm", "--", "/nonexistent/program"]).fails(255, &["[agent_error]"]);
    cli.run(["exec", "vm", "--user", "nobody-of-that-name", "--", "true"])
        .fails(255, &["nobody-of"]);
    cli.run(["exec", "vm", "true"]).fails(2, &["--"]);
    let nowhere = ["exec", "vm", "--socket", "/nonexistent/api.sock", "--", "true"];
    cli.run(nowhere).fails(255, &["no gateway answers there"]);
}

#[test]
fn much_output_and_much_input_arrive_whole() {
    let Some((_here, cli)) = start() else { return };
    // More than the gateway keeps, with bytes that are no text.
    let script =
        "i=0; while [ $i -lt 200000 ]; do echo line $i; i=$((i+1)); done; printf '\\377\\n'";
    let ran = cli.command(["exec", "vm", "--", "sh", "-c", script]).output().unwrap();
    let mut wanted: Vec<u8> =
        (0..200_000).flat_map(|n| format!("line {n}\n").into_bytes()).collect();
    wanted.extend(b"\xff\n");
    assert!(ran.status.success() && ran.stdout == wanted, "{} bytes", ran.stdout.len());

    let mut command = cli.command(["exec", "-i", "vm", "--", "cat"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let (sent, reader) = (wanted.clone(), child.stdout.take().unwrap());
    let writer = std::thread::spawn(move || stdin.write_all(&sent));
    let mut back = Vec::new();
    BufReader::new(reader).read_to_end(&mut back).unwrap();
    writer.join().unwrap().unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(back.len(), wanted.len());
    assert!(back == wanted, "other bytes came back");

    // Whoever reads no more ends it, as in a pipe here.
    let mut command = cli.command(["exec", "vm", "--", "yes"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "y\n");
    assert_eq!(child.wait().unwrap().code(), Some(141));
}

#[test]
fn the_first_interrupt_is_passed_on_and_the_second_kills() {
    let Some((here, cli)) = start() else { return };
    let told = || here.gateway.log().matches("/signal: 200").count();
    for (trap, kills, code) in [("trap 'exit 5' INT", false, 5), ("trap '' INT", true, 137)] {
        let script = format!("{trap}; echo ready; while :; do sleep 0.05; done");
        let mut child = cli.start(["exec", "vm", "--", "sh", "-c", &script]);
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        let before = told();
        signal(&child, "-INT");
        // Two at once would be one.
        until("the first", SOON, || Ok((told() > before).then_some(()))).unwrap();
        if kills {
            signal(&child, "-INT");
        }
        let ran = Ran::from(child.wait_with_output().unwrap());
        assert_eq!(ran.code, Some(code), "{trap}: {ran:?}");
    }
    let list = here.gateway.rest().get("/vms/vm/processes").unwrap().expect(200).unwrap();
    let running = list["processes"].as_array().unwrap().iter().any(|p| p["state"] == "running");
    assert!(!running, "{list}");
}

#[test]
fn a_stock_agent_does_what_it_can() {
    let Some(stock) = qga_testing::stock_agent() else { return };
    let Some(here) = Here::with(stock, "") else { return };
    let cli = Cli::new(&gateway_program().unwrap(), here.gateway.socket());
    let ran = cli.run(["exec", "vm", "--", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((ran.code, &*ran.out), (Some(7), "out\n"), "{ran:?}");
    assert!(ran.err.contains("runs a stock agent") && ran.err.ends_with("err\n"), "{ran:?}");
    let mut command = cli.command(["exec", "-i", "vm", "--", "wc", "-c"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"12345").unwrap();
    let ran = Ran::from(child.wait_with_output().unwrap());
    assert_eq!(ran.ok().trim(), "5");
    let refused = cli.run(["exec", "vm", "--cwd", "/", "--", "true"]);
    refused.fails(255, &["cwd", "[command_unsupported]"]);
}
