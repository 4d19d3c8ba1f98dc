//! What a record says.

use std::time::SystemTime;

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::vm::{Published, VmId};

/// A request that has ended.
#[derive(Debug, Serialize)]
pub(crate) struct RequestRecord<'a> {
    #[serde(serialize_with = "timestamp")]
    pub(crate) time: SystemTime,
    pub(crate) kind: &'static str,
    pub(crate) request_id: &'a str,
    /// None: nobody was proved.
    pub(crate) principal: Option<&'a str>,
    pub(crate) method: &'a str,
    /// Without the query, whose parameters are arguments.
    pub(crate) path: &'a str,
    pub(crate) vms: &'a [VmId],
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) lease_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) command: Option<&'a str>,
    /// The file or program that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) object: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) arguments: Option<&'a str>,
    pub(crate) result: Result,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) code: Option<&'a str>,
    pub(crate) micros: u64,
}

/// Requests without credentials that came too fast for a record each.
#[derive(Debug, Serialize)]
pub(super) struct LeftOut {
    #[serde(serialize_with = "timestamp")]
    pub(super) time: SystemTime,
    pub(super) kind: &'static str,
    pub(super) requests: u64,
}

/// What came of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Result {
    /// It was done, or begun.
    Ok,
    /// It was not done: the caller may not, or asked wrongly.
    Refused,
    /// It was tried, and failed or ended in the unknown.
    Failed,
    /// The caller hung up before the answer; what it asked for may go on.
    Abandoned,
}

impl Result {
    pub(crate) fn of(status: Option<u16>) -> Self {
        match status {
            None => Self::Abandoned,
            Some(..400) => Self::Ok,
            Some(400..422 | 428..500) => Self::Refused,
            Some(_) => Self::Failed,
        }
    }
}

/// Something that was done to a guest, whoever caused it.
#[derive(Debug, Serialize)]
pub(super) struct EventRecord<'a> {
    #[serde(serialize_with = "timestamp")]
    time: SystemTime,
    kind: &'static str,
    event: &'static str,
    event_id: String,
    vms: Vec<&'a VmId>,
    lease_id: Option<&'a str>,
    data: &'a RawValue,
}

impl<'a> EventRecord<'a> {
    pub(super) fn new(event: &'a Published) -> Self {
        Self {
            time: event.time,
            kind: "event",
            event: event.kind.as_str(),
            event_id: event.id.to_string(),
            vms: event.vm.iter().collect(),
            lease_id: event.lease.as_ref().map(|lease| lease.as_str()),
            data: &event.data,
        }
    }
}

/// RFC 3339 in UTC with microseconds: records are put in order by it.
fn timestamp<S: Serializer>(
    time: &SystemTime,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    let time = jiff::Timestamp::try_from(*time).unwrap_or_default();
    serializer.collect_str(&format_args!("{time:.6}"))
}
