//! What a collector of traces is told of a request.

use std::sync::Arc;
use std::time::SystemTime;

use axum::http::Method;
use axum::response::Response;

use super::context::RequestContext;
use super::error::ProblemNote;
use crate::trace::{Exporter, Span};

/// A request of a trace that is kept somewhere: told of when it ends, also without an answer.
pub(super) struct Told<'a> {
    exporter: &'a Exporter,
    context: Arc<RequestContext>,
    method: Method,
    route: &'a str,
    begin: SystemTime,
    end: Option<(u16, Option<&'static str>)>,
}

impl<'a> Told<'a> {
    pub(super) fn begin(
        exporter: &'a Exporter,
        method: &Method,
        route: &'a str,
        context: &Arc<RequestContext>,
    ) -> Self {
        let (method, context) = (method.clone(), context.clone());
        Self { exporter, context, method, route, begin: SystemTime::now(), end: None }
    }

    pub(super) fn end(mut self, response: &Response) {
        let problem = response.extensions().get::<ProblemNote>().map(|note| note.code.as_str());
        self.end = Some((response.status().as_u16(), problem));
    }
}

impl Drop for Told<'_> {
    fn drop(&mut self) {
        let Self { context, method, route, .. } = self;
        let Some(trace) = &context.trace else { return };
        self.exporter.push(Span {
            trace: trace.clone(),
            begin: self.begin,
            end: SystemTime::now(),
            name: format!("{method} {route}"),
            method: method.to_string(),
            route: (*route).to_owned(),
            status: self.end.map(|(status, _)| status),
            problem: self.end.and_then(|(_, problem)| problem),
            request_id: context.id.to_str().unwrap_or("-").to_owned(),
            principal: context.principal().map(|p| p.as_str().to_owned()),
            vm: context.vms().first().map(|vm| vm.as_str().to_owned()),
            calls: context.take_calls(),
        });
    }
}
