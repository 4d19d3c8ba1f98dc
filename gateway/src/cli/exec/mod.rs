//! `qga-gateway exec`: a program in a guest as if it ran here.

mod follow;

use std::io::{Read as _, stdin};
use std::path::Path;
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use hyper::{Method, header};
use qga_gateway::client::{Failure, Gateway, empty, encoded, streamed};
use qga_gateway::shell;
use rustix::process::Signal;
use serde_json::{Map, Value, json};
use tokio::time::timeout;

use self::follow::{End, follow};
use super::bytes_in::chunks;
use super::bytes_out::Output;
use super::complete;
use super::exit::{self, Usage};
use super::out::say;
use super::reach::Reach;
use super::seconds::Seconds;
use super::signals::{self, Signals};

/// How much input a stock agent gets, which takes it with the start or not at all.
const STOCK_INPUT: u64 = 8 << 20;

/// How long a signal may be on its way.
const DELIVERY: Duration = Duration::from_secs(10);

#[derive(Args)]
pub(super) struct Options {
    /// The VM's id
    #[arg(add = complete::vms())]
    vm: String,
    /// The guest's user that it runs as [default: the agent's, which is root]
    #[arg(long)]
    user: Option<String>,
    /// Where it runs [default: /, or the home of --user]
    #[arg(long, value_name = "PATH")]
    cwd: Option<String>,
    /// A variable of its environment, which then has these alone; may be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Kill it after this time, as in 90, 90s or 5m
    #[arg(long, value_name = "TIME")]
    timeout: Option<Seconds>,
    /// Give it our standard input; without this it has none
    #[arg(short = 'i', long = "stdin")]
    input: bool,
    /// Give it a terminal, which this one becomes: as qga-gateway shell
    #[arg(short = 't', long = "tty")]
    terminal: bool,
    /// The program and its arguments; no shell is between
    #[arg(last = true, required = true, value_name = "PROGRAM")]
    program: Vec<String>,
    #[command(flatten)]
    reach: Reach,
}

/// Whatever fails here, and not in the guest, is the caller's 255.
pub(super) fn run(options: &Options, config: &Path) -> anyhow::Result<ExitCode> {
    let gateway = options.reach.gateway(config)?;
    let more = described(options)?;
    if options.terminal {
        let (vm, program) = (options.vm.clone(), options.program.clone());
        let order = shell::Order { gateway, vm, attach: None, program, more };
        return shell::run(&order).map(ExitCode::from);
    }
    super::block_on(async { exec(options, &gateway, more).await.map(ExitCode::from) })
}

/// What is to be said of the program besides its arguments.
fn described(options: &Options) -> Result<Value, Usage> {
    let mut body = Map::new();
    let texts = [("user", &options.user), ("cwd", &options.cwd)];
    for (name, value) in texts.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?)))
    {
        body.insert(name.into(), value.clone().into());
    }
    if let Some(timeout) = options.timeout {
        body.insert("timeout_seconds".into(), timeout.0.into());
    }
    if !options.env.is_empty() {
        let mut env = Map::new();
        for variable in &options.env {
            let (name, value) = variable
                .split_once('=')
                .ok_or_else(|| Usage(format!("--env {variable}: NAME=VALUE is needed")))?;
            env.insert(name.into(), value.into());
        }
        body.insert("env".into(), env.into());
    }
    Ok(body.into())
}

async fn exec(options: &Options, gateway: &Gateway, mut body: Value) -> anyhow::Result<u8> {
    let mut signals = Signals::catch()?;
    body["argv"] = json!(options.program);
    body["overflow"] = "wait".into();
    if options.input {
        body["stdin_open"] = true.into();
    }
    let vm = options.vm.as_str();
    let (process, early) = {
        let mut started = pin!(start(gateway, vm, body));
        let mut early = None;
        loop {
            tokio::select! {
                process = &mut started => break (process?, early),
                signal = signals.next() => {
                    if early.replace(signal).is_some() {
                        say("left before the guest answered: the program may run on");
                        return Ok(signals::code(signal));
                    }
                }
            }
        }
    };
    let pid = process["pid"].as_i64().unwrap_or_default();
    let program =
        Program { gateway, vm, pid, path: format!("/vms/{}/processes/{pid}", encoded(vm)) };
    if process["streaming"] == false {
        say(&format!("{vm} runs a stock agent: output comes when the program has ended"));
    }
    // A stock agent has it all, or has none.
    let feeds = options.input && !process["stdin"].is_null();
    program.attend(&mut signals, early, feeds).await
}

/// Starts it. What a stock agent cannot do and what can be done without is left away.
async fn start(gateway: &Gateway, vm: &str, mut body: Value) -> anyhow::Result<Value> {
    let path = format!("/vms/{}/processes", encoded(vm));
    loop {
        let failure = match gateway.post_once(&path, &body).await {
            Err(Failure::Refused(refusal)) => refusal,
            done => return Ok(done?),
        };
        let Some(members) = body.as_object_mut() else {
            return Err(Failure::Refused(failure).into());
        };
        let member = failure.problem["member"].as_str().unwrap_or_default();
        match member {
            "overflow" if members.remove("overflow").is_some() => {}
            "stdin_open" if members.remove("stdin_open").is_some() => {
                let input = base64_simd::STANDARD.encode_to_string(all_of_stdin(vm)?);
                members.insert("stdin_b64".into(), input.into());
            }
            _ => return Err(Failure::Refused(failure).into()),
        }
    }
}

fn all_of_stdin(vm: &str) -> anyhow::Result<Vec<u8>> {
    let mut input = Vec::new();
    stdin().take(STOCK_INPUT + 1).read_to_end(&mut input)?;
    if input.len() as u64 > STOCK_INPUT {
        anyhow::bail!(
            "{vm} runs a stock agent, which takes input only with the start and at most {} MiB of it \
             here; copy it there with qga-gateway cp, or install qga-agent. Nothing was started",
            STOCK_INPUT >> 20
        );
    }
    Ok(input)
}

/// A process in a guest.
struct Program<'a> {
    gateway: &'a Gateway,
    vm: &'a str,
    pid: i64,
    path: String,
}

impl Program<'_> {
    /// Carries bytes and signals until it ends; the code to exit with.
    async fn attend(
        &self,
        signals: &mut Signals,
        early: Option<Signal>,
        feeds: bool,
    ) -> anyhow::Result<u8> {
        let output = Output::start();
        let mut told = 0;
        if let Some(signal) = early
            && let Some(code) = self.pass_on(signal, &mut told).await
        {
            return Ok(code);
        }
        let mut input_failed = false;
        let end = {
            let mut followed = pin!(follow(self.gateway, &self.path, &output));
            let mut fed = pin!(self.feed());
            let mut feeds = feeds;
            loop {
                tokio::select! {
                    end = &mut followed => break end,
                    result = &mut fed, if feeds => {
                        feeds = false;
                        if let Err(failure) = result {
                            say(&format!("its input broke off, and it is killed: {failure}"));
                            input_failed = true;
                            self.kill().await;
                        }
                    }
                    signal = signals.next() => {
                        if let Some(code) = self.pass_on(signal, &mut told).await {
                            return Ok(code);
                        }
                    }
                }
            }
        };
        let process = match end {
            Ok(End::Exit(process)) => process,
            Ok(End::Unread) => {
                // As a program that writes into a closed pipe here.
                self.signal(Signal::PIPE).await;
                return Ok(signals::code(Signal::PIPE));
            }
            // It was forgotten as it was killed.
            Err(_) if told > 1 || input_failed => json!({"state": "lost"}),
            Err(failure) => return Err(failure.into()),
        };
        if output.finish().await.is_err() {
            return Ok(signals::code(Signal::PIPE));
        }
        if input_failed {
            return Ok(exit::NOT_THE_PROGRAM);
        }
        if told > 1 && process["state"] == "lost" {
            return Ok(signals::code(Signal::KILL));
        }
        Ok(self.code(&process))
    }

    fn code(&self, process: &Value) -> u8 {
        if process["timed_out"] == true {
            say("its time was over, and it was killed");
        }
        let code = exit::of_process(process["exit_code"].as_i64(), process["signal"].as_i64());
        code.unwrap_or_else(|| {
            let why = process["reason"].as_str().unwrap_or("how it ended is not known");
            say(&format!("process {} of {}: {why}", self.pid, self.vm));
            exit::NOT_THE_PROGRAM
        })
    }

    /// All of our standard input becomes its own. That it takes no more is its own affair.
    async fn feed(&self) -> Result<(), Failure> {
        let request = self.gateway.request(Method::PUT, &format!("{}/stdin", self.path));
        let request = request.header(header::CONTENT_TYPE, "application/octet-stream");
        let sent = self.gateway.ask(request, streamed(chunks(stdin(), |_| {}))).await;
        match sent {
            Err(failure) if failure.code() == Some("process_conflict") => Ok(()),
            sent => sent.map(drop),
        }
    }

    /// The first is passed on, the second kills, and with the third we leave: with that code.
    async fn pass_on(&self, signal: Signal, told: &mut u32) -> Option<u8> {
        *told += 1;
        let arrived = match *told {
            1 => self.signal(signal).await,
            2 => self.kill().await,
            _ => false,
        };
        if arrived {
            return None;
        }
        say(&format!("left; process {} of {} may run on", self.pid, self.vm));
        Some(signals::code(signal))
    }

    async fn signal(&self, signal: Signal) -> bool {
        let body = json!({"signal": signal.as_raw()});
        let path = format!("{}/signal", self.path);
        self.sent(self.gateway.send(Method::POST, &path, &body)).await
    }

    async fn kill(&self) -> bool {
        let request = self.gateway.request(Method::DELETE, &self.path);
        self.sent(self.gateway.ask(request, empty())).await
    }

    async fn sent(&self, request: impl Future<Output = Result<Value, Failure>>) -> bool {
        match timeout(DELIVERY, request).await {
            Ok(Ok(_)) => true,
            // It has ended meanwhile, and that is being told.
            Ok(Err(failure)) if failure.code() == Some("process_conflict") => true,
            Ok(Err(failure)) => {
                say(&failure.to_string());
                false
            }
            Err(_) => {
                say("the guest does not answer");
                false
            }
        }
    }
}
