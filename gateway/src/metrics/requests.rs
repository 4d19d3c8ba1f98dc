//! HTTP requests, by route and method.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use axum::http::{Method, StatusCode};

use super::{Counter, Histogram};

/// The route of what has none: paths are a caller's, routes are ours.
const NONE: &str = "none";

const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "other"];

/// The last one: the client hung up before the answer.
const STATUSES: [&str; 6] = ["1xx", "2xx", "3xx", "4xx", "5xx", "none"];

/// The requests' figures since the gateway started.
#[derive(Debug)]
pub(crate) struct RequestFigures {
    paths: matchit::Router<usize>,
    routes: Vec<Route>,
    in_flight: AtomicU64,
    pub(crate) started: SystemTime,
}

#[derive(Debug)]
struct Route {
    path: String,
    methods: [OnceLock<Row>; METHODS.len()],
}

#[derive(Debug)]
struct Row {
    latency: Histogram,
    statuses: [Counter; STATUSES.len()],
}

/// What is known of one route under one method.
pub(crate) struct RequestRow<'a> {
    pub(crate) path: &'a str,
    pub(crate) method: &'static str,
    pub(crate) latency: &'a Histogram,
    pub(crate) statuses: Vec<(&'static str, u64)>,
}

impl RequestFigures {
    /// For these routes, with `{name}` for what differs.
    pub(crate) fn new<'a>(paths: impl IntoIterator<Item = &'a str>) -> Self {
        let route = |path: &str| Route { path: path.to_owned(), methods: Default::default() };
        let (mut routes, mut table) = (vec![route(NONE)], matchit::Router::new());
        for path in paths {
            // Those of the router, which has taken them before.
            if table.insert(path, routes.len()).is_ok() {
                routes.push(route(path));
            }
        }
        Self { paths: table, routes, in_flight: AtomicU64::new(0), started: SystemTime::now() }
    }

    /// The route of a path, as it is called in figures.
    pub(crate) fn route(&self, path: &str) -> &str {
        &self.routes[self.find(path)].path
    }

    fn find(&self, path: &str) -> usize {
        self.paths.at(path).map_or(0, |found| *found.value)
    }

    /// Begins to time a request.
    pub(crate) fn begin(&self, method: &Method, path: &str) -> Timed<'_> {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        let named = METHODS.iter().position(|name| *name == method.as_str());
        let cell = &self.routes[self.find(path)].methods[named.unwrap_or(METHODS.len() - 1)];
        Timed { figures: self, cell, start: Instant::now(), status: None }
    }

    /// Notes bytes that never became a request.
    pub(crate) fn refused(&self, status: StatusCode) {
        row(&self.routes[0].methods[METHODS.len() - 1]).note(Some(status), Duration::ZERO);
    }

    pub(crate) fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Those that were ever asked for.
    pub(crate) fn rows(&self) -> impl Iterator<Item = RequestRow<'_>> {
        self.routes.iter().flat_map(|route| {
            METHODS.iter().zip(&route.methods).filter_map(|(method, row)| {
                let Row { latency, statuses } = row.get()?;
                let statuses = STATUSES.iter().zip(statuses);
                let statuses = statuses.map(|(word, count)| (*word, count.get())).collect();
                Some(RequestRow { path: &route.path, method, latency, statuses })
            })
        })
    }
}

fn row(cell: &OnceLock<Row>) -> &Row {
    cell.get_or_init(|| Row { latency: Histogram::latency(), statuses: Default::default() })
}

impl Row {
    fn note(&self, status: Option<StatusCode>, took: Duration) {
        self.latency.observe(took);
        let class = status.map_or(usize::MAX, |status| usize::from(status.as_u16() / 100));
        let at = class.wrapping_sub(1).min(STATUSES.len() - 1);
        self.statuses[at].add(1);
    }
}

/// A request in hand: counted when it is dropped, also without an answer.
#[derive(Debug)]
pub(crate) struct Timed<'a> {
    figures: &'a RequestFigures,
    cell: &'a OnceLock<Row>,
    start: Instant,
    status: Option<StatusCode>,
}

impl Timed<'_> {
    pub(crate) fn answered(mut self, status: StatusCode) {
        self.status = Some(status);
    }
}

impl Drop for Timed<'_> {
    fn drop(&mut self) {
        self.figures.in_flight.fetch_sub(1, Ordering::Relaxed);
        row(self.cell).note(self.status, self.start.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_the_documents_whatever_is_asked_for() {
        let figures = RequestFigures::new(["/vms", "/vms/{id}", "/vms/{id}/ping"]);
        figures.begin(&Method::GET, "/vms/a").answered(StatusCode::OK);
        figures.begin(&Method::GET, "/vms/b").answered(StatusCode::NOT_FOUND);
        drop(figures.begin(&Method::POST, "/vms/b/ping"));
        let brew = Method::from_bytes(b"BREW").expect("a method");
        for n in 0..1000 {
            figures.begin(&brew, &format!("/x/{n}")).answered(StatusCode::NOT_FOUND);
        }
        figures.refused(StatusCode::BAD_REQUEST);
        let rows: Vec<_> = figures
            .rows()
            .map(|row| {
                let seen = row.statuses.into_iter().filter(|(_, n)| *n > 0).collect::<Vec<_>>();
                (row.path, row.method, seen, row.latency.distribution().count)
            })
            .collect();
        assert_eq!(
            rows,
            [
                ("none", "other", vec![("4xx", 1001)], 1001),
                ("/vms/{id}", "GET", vec![("2xx", 1), ("4xx", 1)], 2),
                ("/vms/{id}/ping", "POST", vec![("none", 1)], 1),
            ]
        );
        assert_eq!((figures.in_flight(), figures.route("/vms/x")), (0, "/vms/{id}"));
    }
}
