//! Callers of all kinds, each drawing what it does next.

mod freezes;

use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt as _;
use qga_e2e::sim::Random;
use serde_json::json;

use crate::Run;
use crate::client::Ask;

/// Some of them hold a freeze, most wait for their next turn.
const CALLERS: u32 = 48;
/// Of a download that is broken off.
const TASTE: usize = 256 << 10;

const READS: [&str; 8] = [
    "/vms/{id}/filesystems",
    "/vms/{id}/os",
    "/vms/{id}/hostname",
    "/vms/{id}/timezone",
    "/vms/{id}/time",
    "/vms/{id}/vcpus",
    "/vms/{id}/agent",
    "/vms/{id}/load",
];

/// Calls until the run is over.
pub(crate) async fn all(run: Arc<Run>) {
    let callers: Vec<_> = (0..CALLERS)
        .map(|number| {
            let random = Random::new(run.seed ^ (u64::from(number) << 32));
            tokio::spawn(caller(run.clone(), random))
        })
        .collect();
    for caller in callers {
        if let Err(error) = caller.await {
            run.book.wrong(format!("a caller of the soak itself failed: {error}"));
        }
    }
}

async fn caller(run: Arc<Run>, mut random: Random) {
    let mean = Duration::from_secs(1) * CALLERS / run.rate;
    while run.pause(mean.mul_f64(unit(&mut random) * 2.0)).await {
        turn(&run, &mut random).await;
    }
}

impl Run {
    /// False once the run is over.
    pub(crate) async fn pause(&self, time: Duration) -> bool {
        tokio::select! {
            () = self.over.cancelled() => false,
            () = tokio::time::sleep(time) => true,
        }
    }

    pub(crate) fn any(&self, random: &mut Random) -> usize {
        usize::try_from(random.below(self.guests.count() as u64)).unwrap_or(0)
    }
}

/// From 0 to 1.
pub(crate) fn unit(random: &mut Random) -> f64 {
    f64::from(u32::try_from(random.below(1 << 20)).unwrap_or(0)) / f64::from(1 << 20)
}

async fn turn(run: &Run, random: &mut Random) {
    let vm = run.any(random);
    let id = &*run.guests.id(vm);
    let ask = match random.below(100) {
        0..=5 => return freezes::one(run, random, vm).await,
        6 => return freezes::group(run, random).await,
        7..=10 => return file(run, random, id).await,
        11..=13 => return hang_up(run, random, id).await,
        14 | 15 => return download(run, id).await,
        16..=41 => read(random, id),
        42..=45 => Ask::vm("POST", "/vms/{id}/sync", id),
        46..=51 => raw(random, id),
        52..=54 => {
            let what = *random.pick(&["agent", "address", "thawed"]);
            let mut ask = Ask::vm("GET", "/vms/{id}/wait", id);
            ask.path += &format!("?for={what}&timeout_seconds={}", 1 + random.below(3));
            ask
        }
        55..=57 => Ask::vm("GET", "/vms/{id}/fsfreeze", id),
        58..=62 => Ask::vm("GET", "/vms/{id}", id),
        63 | 64 => {
            let query =
                *random.pick(&["?limit=100", "?state=ready&limit=50", "?label=tier%3Dnamed"]);
            Ask::new("GET", "/vms", format!("/vms{query}"))
        }
        65 | 66 => Ask::new("GET", "/freezes", "/freezes?limit=50".into()),
        67 => Ask::new("POST", "/tickets", "/tickets".into())
            .json(json!({ "method": "GET", "path": "/events" })),
        68 => Ask::vm("GET", "/vms/{id}/processes", id),
        69 => Ask::vm("POST", "/vms/{id}/processes", id).json(json!({ "argv": ["/bin/true"] })),
        70 | 71 => wrong(random, id),
        _ => hostile_or(random, id),
    };
    run.send(&ask).await;
}

/// A ping, once in a while of one that means no good.
fn hostile_or(random: &mut Random, id: &str) -> Ask {
    let hostile = format!("hostile-{}", random.below(crate::guests::HOSTILE as u64));
    let id = if random.once_in(40) { &hostile } else { id };
    Ask::vm("POST", "/vms/{id}/ping", id)
}

fn read(random: &mut Random, id: &str) -> Ask {
    let ask = Ask::vm("GET", random.pick::<&str>(&READS), id);
    match random.below(4) {
        0 => ask,
        1 => ask.header("cache-control", "no-cache").header("if-none-match", "\"nothing\""),
        _ => ask.header("cache-control", format!("max-age={}", random.below(120))),
    }
}

fn raw(random: &mut Random, id: &str) -> Ask {
    let route = "/vms/{id}/commands/{name}";
    let names = ["guest-ping", "guest-info", "guest-get-osinfo", "guest-fstrim", "guest-no-such"];
    let path = format!("/vms/{id}/commands/{}", random.pick(&names));
    Ask::new("POST", route, path).json(json!({}))
}

/// What the gateway refuses by itself.
fn wrong(random: &mut Random, id: &str) -> Ask {
    match random.below(4) {
        0 => Ask::vm("GET", "/vms/{id}", "no-such-vm"),
        1 => Ask::vm("POST", "/vms/{id}/fsfreeze", id).json(json!({ "ttl_seconds": -1 })),
        2 => Ask::lease("GET", "frz_00000000000000000000000000000000"),
        _ => Ask::new("GET", "/vms", "/vms?limit=none".into()),
    }
}

/// A handle: opened, used, and once in a while left open for long.
async fn file(run: &Run, random: &mut Random, id: &str) {
    let handles = format!("/vms/{id}/file-handles");
    let open = Ask::vm("POST", "/vms/{id}/file-handles", id).json(json!({ "path": "/x" }));
    let Some(opened) = run.send(&open).await.filter(|answer| answer.status == 201) else { return };
    let at = format!("{handles}/{}", opened.json["handle"]);
    let count = 1 + random.below(64 << 10);
    let read = Ask::new("POST", "/vms/{id}/file-handles/{handle}/read", format!("{at}/read"));
    run.send(&read.json(json!({ "count": count }))).await;
    let closed = !random.once_in(10) && is_closed(run, &at).await;
    if closed {
        return;
    }
    run.book.leaves_open(at);
    // As many are closed as come, even if a guest stands still and one has to be left again.
    for _ in 0..2 {
        let Some(oldest) = run.book.open_for_long() else { return };
        if !is_closed(run, &oldest).await {
            run.book.leaves_open(oldest);
        }
    }
}

/// Closes a handle, unless something goes wrong.
pub(crate) async fn is_closed(run: &Run, path: &str) -> bool {
    let ask = Ask::new("DELETE", "/vms/{id}/file-handles/{handle}", path.to_owned());
    run.send(&ask).await.is_some_and(|answer| matches!(answer.status, 200..300 | 404))
}

/// A request whose caller does not wait for the answer.
async fn hang_up(run: &Run, random: &mut Random, id: &str) {
    let ask = match random.below(3) {
        0 => Ask::vm("POST", "/vms/{id}/ping", id),
        1 => Ask::vm("GET", "/vms/{id}/filesystems", id).header("cache-control", "no-cache"),
        _ => {
            let mut ask = Ask::vm("GET", "/vms/{id}/wait", id);
            ask.path += "?for=address&timeout_seconds=60";
            ask
        }
    };
    let patience = Duration::from_millis(random.below(20));
    let _ = tokio::time::timeout(patience, run.open(&ask)).await;
    run.book.fault("a caller hangs up");
}

/// The files of simulated guests have no end: a download of which only the beginning is taken.
async fn download(run: &Run, id: &str) {
    let mut ask = Ask::vm("GET", "/vms/{id}/files/content", id);
    ask.path += "?path=/var/log/endless";
    let Ok(answer) = run.open(&ask).await else { return };
    let mut body = answer.into_body();
    let mut taken = 0;
    let all = async {
        while let Some(Ok(frame)) = body.frame().await {
            taken += frame.data_ref().map_or(0, bytes::Bytes::len);
            if taken >= TASTE {
                break;
            }
        }
    };
    // A guest that has died does not go on.
    let _ = tokio::time::timeout(Duration::from_secs(5), all).await;
    run.book.fault("a download is broken off");
}
