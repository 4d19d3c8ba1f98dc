//! `qga-gateway vms --watch`: the list, as it changes. The gateway's events say when to look; it is
//! never asked because time has passed.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IsTerminal as _, Write as _, stdout};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::StreamExt as _;
use futures_util::stream::iter;
use http_body_util::BodyExt as _;
use hyper::body::{Frame, Incoming};
use hyper::{Method, header};
use qga_gateway::client::{Bytes, Failure, Gateway, empty, encoded};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep, timeout_at};

use super::screen::Screen;
use super::{AT_ONCE, Options, table};
use crate::cli::events::{Event, Events};
use crate::cli::out::say;
use crate::cli::signals::{self, Signals};

/// Everything that shows in a line of the list.
const EVENTS: &str = "/events?kind=vm.*&kind=link.changed&kind=freeze.*";

/// What happens within this time is looked at once.
const WINDOW: Duration = Duration::from_millis(200);

/// Events of one look at most, and VMs that are looked at one by one; for more the list is read anew.
const BATCH: usize = 1000;
const SINGLY: usize = 100;

/// How often in a row nobody may answer, and the pause between.
const AGAIN: u32 = 30;
const PAUSE: Duration = Duration::from_secs(1);

/// Shows them until a signal ends it, or nobody is left to show them to.
pub(super) async fn watch(options: &Options, gateway: &Gateway) -> anyhow::Result<ExitCode> {
    let mut ending = Signals::catch().context("signals cannot be caught")?;
    let view = match options.json {
        true => View::Lines,
        false if stdout().is_terminal() => View::Screen(Screen::open().context("the terminal")?),
        false => View::Tables,
    };
    let watch = Watch { options, gateway, view, vms: BTreeMap::new(), young: BTreeSet::new() };
    tokio::select! {
        error = watch.follow() => match error {
            // As with `| head`: who has seen enough is no error.
            error if is_closed(&error) => Ok(ExitCode::SUCCESS),
            error => Err(error),
        },
        signal = ending.next() => Ok(signals::code(signal).into()),
    }
}

fn is_closed(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

/// How it is shown.
enum View {
    Screen(Screen),
    /// No terminal: one table behind the other.
    Tables,
    /// JSON, a line for each change.
    Lines,
}

struct Watch<'a> {
    options: &'a Options,
    gateway: &'a Gateway,
    view: View,
    /// Those that are shown.
    vms: BTreeMap<String, Value>,
    /// Of what they are the gateway learns more a moment after it says that they answer.
    young: BTreeSet<String>,
}

impl Watch<'_> {
    /// Ends with an error only. A connection that breaks is made anew, and goes on where it was.
    async fn follow(mut self) -> anyhow::Error {
        let mut place = None;
        let mut silent = 0;
        loop {
            let before = place.clone();
            match self.connection(&mut place).await {
                Ok(()) => {}
                Err(error) if place.is_some() && is_passing(&error) && silent < AGAIN => {
                    if let Err(error) = self.lost(&error) {
                        return error;
                    }
                }
                Err(error) => return error,
            }
            silent = if place == before { silent + 1 } else { 0 };
            sleep(PAUSE).await;
        }
    }

    /// One connection's worth. `place` is the last event that was seen; none before the first list.
    async fn connection(&mut self, place: &mut Option<String>) -> anyhow::Result<()> {
        let mut request = self.gateway.request(Method::GET, EVENTS);
        if let Some(id) = place.as_ref().filter(|id| !id.is_empty()) {
            request = request.header("last-event-id", id);
        }
        let request = request.header(header::ACCEPT, "text/event-stream");
        let mut body = self.gateway.open(request, empty()).await?.into_body();
        if place.as_ref().is_none_or(String::is_empty) {
            // What happens from here on is told.
            self.look_at_all().await?;
            place.get_or_insert_default();
        }
        self.show()?;
        let mut resized = signal(SignalKind::window_change())?;
        let mut events = Events::default();
        loop {
            let frame = tokio::select! {
                frame = body.frame() => frame,
                _ = resized.recv() => { self.show()?; continue },
            };
            let Some(Ok(frame)) = frame else { return Ok(()) };
            let told = gathered(&frame, &mut body, &mut events).await;
            if let Some(last) = told.last() {
                *place = Some(last.id.clone());
            }
            self.take(told).await?;
            self.show()?;
        }
    }

    async fn look_at_all(&mut self) -> anyhow::Result<()> {
        let (vms, _) = self.options.chosen(self.gateway).await?;
        let id = |vm: &Value| vm["id"].as_str().unwrap_or_default().to_owned();
        let found: BTreeMap<_, _> = vms.into_iter().map(|vm| (id(&vm), vm)).collect();
        let before = std::mem::replace(&mut self.vms, found);
        if matches!(self.view, View::Lines) {
            for id in before.keys().filter(|id| !self.vms.contains_key(*id)) {
                line(&json!({ "kind": "list", "id": id, "vm": null }))?;
            }
            for (id, vm) in &self.vms {
                line(&json!({ "kind": "list", "id": id, "vm": vm }))?;
            }
        }
        Ok(())
    }

    /// Looks at what these events are about, as it is now.
    async fn take(&mut self, told: Vec<Event>) -> anyhow::Result<()> {
        let mut about: BTreeSet<_> = told.iter().filter_map(vm_of).map(str::to_owned).collect();
        about.extend(std::mem::take(&mut self.young));
        about.retain(|id| self.options.vms.is_empty() || self.options.vms.contains(id));
        if told.iter().any(|event| event.kind == "gap") || about.len() > SINGLY {
            return self.look_at_all().await;
        }
        let shown: BTreeSet<_> = self.vms.keys().cloned().collect();
        let gateway = self.gateway;
        let looked = iter(about).map(async |id| {
            let vm = gateway.get(&format!("/vms/{}", encoded(&id))).await;
            (id, vm)
        });
        let looked: Vec<_> = looked.buffered(AT_ONCE).collect().await;
        for (id, vm) in looked {
            match vm {
                Ok(vm) if self.options.wants(&vm) => {
                    if vm["link"]["state"] == "ready" && vm["agent"].is_null() {
                        self.young.insert(id.clone());
                    }
                    self.vms.insert(id, vm);
                }
                Ok(_) | Err(Failure::Refused(_)) => drop(self.vms.remove(&id)),
                Err(failure) => return Err(failure.into()),
            }
        }
        if matches!(self.view, View::Lines) {
            for event in &told {
                let Some(id) = vm_of(event) else { continue };
                if shown.contains(id) || self.vms.contains_key(id) {
                    let (kind, time) = (&event.kind, &event.data["time"]);
                    line(&json!({ "kind": kind, "time": time, "id": id, "vm": self.vms.get(id) }))?;
                }
            }
        }
        Ok(())
    }

    fn show(&self) -> anyhow::Result<()> {
        match &self.view {
            View::Screen(screen) => screen.draw(&table(self.vms.values()).text())?,
            View::Tables => put(&format!("{}\n", table(self.vms.values()).text()))?,
            View::Lines => {}
        }
        Ok(())
    }

    fn lost(&self, error: &anyhow::Error) -> anyhow::Result<()> {
        match &self.view {
            View::Screen(screen) => {
                let table = table(self.vms.values()).text();
                screen.draw(&format!("As it was, {error}\n{table}"))?;
            }
            View::Tables | View::Lines => say(&format!("{error}; trying again")),
        }
        Ok(())
    }
}

impl Options {
    /// Whether it is one of those that are asked for.
    fn wants(&self, vm: &Value) -> bool {
        let labelled = |label: &String| {
            label.split_once('=').is_some_and(|(key, value)| vm["labels"][key] == value)
        };
        let state = vm["link"]["state"].as_str().unwrap_or_default();
        self.label.iter().all(labelled)
            && (self.state.is_empty() || self.state.iter().any(|wanted| wanted == state))
    }
}

/// The gateway may be back in a moment.
fn is_passing(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Failure>().is_some_and(|failure| {
        failure.is_silence()
            || matches!(failure.code(), Some("shutting_down" | "too_many_subscribers"))
    })
}

fn vm_of(event: &Event) -> Option<&str> {
    event.data["vm_id"].as_str()
}

/// What is told, with all that follows at once. Nothing, if the gateway has only shown that it is there.
async fn gathered(first: &Frame<Bytes>, body: &mut Incoming, events: &mut Events) -> Vec<Event> {
    let mut take =
        |frame: &Frame<Bytes>| frame.data_ref().map(|bytes| events.take(bytes)).unwrap_or_default();
    let mut told = take(first);
    let until = Instant::now() + WINDOW;
    while told.len() < BATCH
        && let Ok(Some(Ok(frame))) = timeout_at(until, body.frame()).await
    {
        told.extend(take(&frame));
    }
    told
}

fn line(value: &Value) -> io::Result<()> {
    put(&format!("{value}\n"))
}

fn put(text: &str) -> io::Result<()> {
    let mut out = stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}
