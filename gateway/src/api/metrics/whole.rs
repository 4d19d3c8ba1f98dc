//! What tells of the gateway as a whole.

use crate::api::App;
use crate::metrics::family;
use crate::metrics::page::Page;
use crate::metrics::process::{ProcessFigures, timestamp};
use crate::vm::{Lease, LeaseState};

pub(super) fn write(page: &mut Page, app: &App) {
    commands(page, app);
    leases(page, app);
    requests(page, app);
    let events = app.registry.events();
    page.family(&family::SUBSCRIBERS).add(&[], events.subscribers());
    page.family(&family::EVENTS).add(&[], events.published());
    let writes = app.leases.writes();
    page.family(&family::STATE_WRITE).histogram(&[], &writes.latency);
    page.family(&family::STATE_FAILURES).add(&[], writes.failures.get());
    page.family(&family::STATE_WRITABLE).add(&[], u8::from(writes.writable()));
    if let Some(exporter) = &app.exporter {
        let mut samples = page.family(&family::SPANS);
        for (outcome, count) in exporter.figures() {
            samples.add(&[outcome], count);
        }
    }
    process(page, app);
}

fn commands(page: &mut Page, app: &App) {
    let commands = &app.registry.settings().commands;
    let mut samples = page.family(&family::COMMAND_SECONDS);
    for row in commands.rows() {
        samples.histogram(&[row.name], row.latency);
    }
    let mut samples = page.family(&family::COMMAND_OUTCOMES);
    for row in commands.rows() {
        for (outcome, count) in row.outcomes {
            samples.add(&[row.name, outcome], count);
        }
    }
    page.family(&family::QUEUE_WAIT).histogram(&[], &commands.waits);
}

fn leases(page: &mut Page, app: &App) {
    const ACTIVE: [LeaseState; 5] = [
        LeaseState::Freezing,
        LeaseState::Frozen,
        LeaseState::Thawing,
        LeaseState::RollingBack,
        LeaseState::Orphaned,
    ];
    let mut counts = [0_u64; ACTIVE.len()];
    app.leases.look(|lease: &Lease| {
        let state = lease.shown_state();
        if let Some(at) = ACTIVE.iter().position(|active| *active == state && !lease.ended()) {
            counts[at] += 1;
        }
    });
    let mut samples = page.family(&family::LEASES);
    for (state, count) in ACTIVE.iter().zip(counts) {
        samples.add(&[state.as_str()], count);
    }
    page.family(&family::LEASED_VMS).add(&[], app.leases.held());
    let freezes = &app.registry.settings().freezes;
    let mut samples = page.family(&family::THAWS);
    for (cause, count) in freezes.thaws() {
        samples.add(&[cause], count);
    }
    let mut samples = page.family(&family::VERDICTS);
    for (verdict, count) in freezes.verdicts() {
        samples.add(&[verdict], count);
    }
    page.family(&family::HELD).histogram(&[], &freezes.held);
}

fn requests(page: &mut Page, app: &App) {
    let requests = app.requests();
    let mut samples = page.family(&family::REQUESTS);
    for row in requests.rows() {
        for (status, count) in &row.statuses {
            // Few routes answer in all classes.
            if *count > 0 {
                samples.add(&[row.path, row.method, status], count);
            }
        }
    }
    let mut samples = page.family(&family::REQUEST_SECONDS);
    for row in requests.rows() {
        samples.histogram(&[row.path, row.method], row.latency);
    }
    page.family(&family::IN_FLIGHT).add(&[], requests.in_flight());
}

fn process(page: &mut Page, app: &App) {
    let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    page.family(&family::TASKS).add(&[], tasks);
    let process = ProcessFigures::now();
    page.family(&family::PROCESS_CPU).add(&[], process.cpu.as_secs_f64());
    page.family(&family::PROCESS_RESIDENT).add(&[], process.resident_bytes);
    page.family(&family::PROCESS_VIRTUAL).add(&[], process.virtual_bytes);
    page.family(&family::PROCESS_FDS).add(&[], process.open_descriptors);
    if let Some(most) = process.max_descriptors {
        page.family(&family::PROCESS_MAX_FDS).add(&[], most);
    }
    page.family(&family::PROCESS_THREADS).add(&[], process.threads);
    page.family(&family::PROCESS_START).add(&[], timestamp(app.requests().started));
}
