//! A caller's body on its way into a file: where it belongs, and what must hold.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, header};
use http_body_util::BodyExt as _;
use qga_proto::command::{
    Command as _, CommandInfo, FileStat, GuestFileClose, GuestFileFlush, GuestFileOpen,
    XFileCommit, XFileCreate, XFileOpen, XFileSync,
};
use serde::Serialize;
use tokio::time::timeout;
use utoipa::ToSchema;

use super::digest::digests;
use super::query::{Parameters, RawQuery, bad};
use super::range::Place;
use super::validators::{Condition, Tag};
use crate::api::caller::Vm;
use crate::api::error::{Code, Problem};
use crate::principal::Principal;
use crate::vm::transfer::{
    Beneath, Broken, Digests, Finish, GuestPath, InPlace, PART, TransferError, Upload, UploadKey,
    Written,
};

/// How long nothing may come of a body.
const IDLE: Duration = Duration::from_secs(60);

/// How long, and how much of it, a body is read for nothing, so that its sender reads the problem.
const DRAIN: Duration = Duration::from_secs(3);
const DRAIN_BYTES: usize = 64 << 20;

/// Where to, and how.
#[derive(Debug)]
pub(in crate::api) struct UploadQuery {
    pub(super) path: GuestPath,
    mode: Option<i64>,
    uid: Option<i64>,
    gid: Option<i64>,
    offset: Option<u64>,
    in_place: bool,
}

impl Parameters for UploadQuery {
    const NAMES: &'static [&'static str] = &["path", "mode", "uid", "gid", "offset", "in_place"];

    fn take(query: &mut RawQuery) -> Result<Self, Problem> {
        let owner = i64::from(u32::MAX) - 1;
        Ok(Self {
            path: query.path("path")?,
            mode: query.mode()?,
            uid: query.number("uid", owner)?,
            gid: query.number("gid", owner)?,
            offset: query.number("offset", i64::MAX)?.and_then(|offset| u64::try_from(offset).ok()),
            in_place: query.flag("in_place")?.unwrap_or(false),
        })
    }
}

/// What carries it out where the guest's agent has extensions.
pub(super) const COMMANDS: &[&CommandInfo] =
    &[&XFileCreate::INFO, &XFileCommit::INFO, &XFileOpen::INFO];

/// What a request asks for.
pub(super) struct Plan {
    query: UploadQuery,
    beneath: Beneath,
    place: Place,
    condition: Condition,
    digests: Digests,
}

impl Plan {
    pub(super) fn of(
        query: UploadQuery,
        headers: &HeaderMap,
        beneath: Beneath,
    ) -> Result<Self, Problem> {
        if let Some(encoding) = headers.get(header::CONTENT_ENCODING) {
            return Err(Problem::new(
                Code::UnsupportedMediaType,
                format!(
                    "Content-Encoding {encoding:?} is not supported: send the bytes as they are."
                ),
            ));
        }
        let range = headers.get(header::CONTENT_RANGE);
        let place = match (range, query.offset) {
            (Some(_), Some(_)) => {
                return Err(bad("offset", "says the same as Content-Range: send one of them"));
            }
            (Some(range), None) => range.to_str().ok().and_then(Place::of).ok_or_else(|| {
                Problem::bad_request(
                    "Header Content-Range must be like \"bytes 100-199/200\", with the total.",
                )
            })?,
            (None, offset) => Place::from(offset.unwrap_or(0)),
        };
        let condition = Condition::of(headers);
        if query.in_place {
            let changes = query.mode.or(query.uid).or(query.gid).is_some();
            if changes || condition != Condition::None || headers.contains_key("repr-digest") {
                return Err(bad(
                    "in_place",
                    "goes without mode, uid, gid, If-Match, If-None-Match and Repr-Digest",
                ));
            }
        }
        Ok(Self { query, beneath, place, condition, digests: digests(headers)? })
    }

    fn commit(&self, upload: &Upload, expect: Option<qga_proto::command::Expected>) -> XFileCommit {
        let UploadQuery { mode, uid, gid, .. } = self.query;
        XFileCommit { handle: upload.handle, mode, uid, gid, expect }
    }

    /// What a stock agent cannot do, by its name.
    fn beyond_stock(&self) -> Option<&'static str> {
        let UploadQuery { mode, uid, gid, .. } = &self.query;
        let asked = [
            (mode.is_some(), "mode"),
            (uid.is_some(), "uid"),
            (gid.is_some(), "gid"),
            (self.condition != Condition::None, "If-Match and If-None-Match"),
            (self.place.first > 0 && !self.digests.is_empty(), "Repr-Digest with an offset"),
            (!self.place.is_end, "a Content-Range that does not reach the total"),
        ];
        asked.into_iter().find(|(asked, _)| *asked).map(|(_, name)| name)
    }
}

/// What was written.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Upload, example = json!({"path": "/etc/motd", "size": 14, "atomic": true, "etag": "801-2a-e-17fd4b2c9e61f800"}))]
pub(in crate::api) struct UploadBody {
    /// Where.
    path: String,
    /// Its bytes in base64, where they are no UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    path_b64: Option<String>,
    /// Bytes of the content.
    size: u64,
    /// Whether it appeared there whole, in one step.
    atomic: bool,
    /// The new content's entity tag, without the quotes; with `qga-agent`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    etag: Option<String>,
    /// What the guest's kernel says of it; with `qga-agent`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    stat: Option<FileStat>,
}

/// A part of a content was received.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = UploadPart, example = json!({"received": 1048576}))]
pub(in crate::api) struct PartBody {
    /// Bytes from the beginning: the next part begins here.
    received: u64,
}

/// What came of it.
pub(super) enum Done {
    Part(PartBody),
    Whole { created: bool, tag: Option<Tag>, body: Box<UploadBody> },
}

/// Moves the body.
pub(super) async fn carry_out(
    vm: &Vm,
    principal: &Principal,
    plan: Plan,
    body: &mut Sent,
) -> Result<Done, Problem> {
    let extended = plan.beneath.is_held()
        || vm.offers(&XFileCreate::INFO).await? && vm.offers(&XFileCommit::INFO).await?;
    if plan.query.in_place || !extended {
        in_place(vm, principal, plan, body, extended).await
    } else {
        whole(vm, principal, plan, body).await
    }
}

/// A file that appears in its place when it is whole.
async fn whole(
    vm: &Vm,
    principal: &Principal,
    plan: Plan,
    body: &mut Sent,
) -> Result<Done, Problem> {
    begin(vm, &XFileCreate::INFO).await?;
    let path = &plan.query.path;
    let key = UploadKey {
        principal: principal.clone(),
        vm: vm.handle.id().clone(),
        path: path.clone(),
        beneath: plan.beneath.clone(),
    };
    let upload = match plan.place.first {
        0 => Upload::create(&vm.handle, path, key, plan.digests.clone()).await,
        offset => Upload::resume(&vm.handle, key, offset, &plan.digests).await,
    };
    let upload = upload.map_err(|error| vm.transfer_failed(error))?;
    let replaces = upload.replaces.clone();
    let Some(expect) = plan.condition.on(replaces.as_ref()) else {
        return Err(Problem::new(
            Code::PreconditionFailed,
            "What If-Match or If-None-Match asks for does not hold of what stands there now. \
             Nothing was changed.",
        )
        .vm(vm.handle.id()));
    };
    body.pass_to(&upload, plan.place).await?;
    let write_first = plan.place.is_end && vm.offers(&XFileSync::INFO).await?;
    let finish = match plan.place.is_end {
        true => Finish::Commit { commit: plan.commit(&upload, expect), write_first },
        false => Finish::Keep,
    };
    let conditional = plan.condition != Condition::None;
    let written = upload.finish(finish).await;
    let Written { stat, received } =
        written.map_err(|broken| broken_off(vm, broken, conditional))?;
    if !plan.place.is_end {
        return Ok(Done::Part(PartBody { received }));
    }
    let tag = stat.as_ref().and_then(Tag::of);
    let body = UploadBody {
        path: path.lossy().into_owned(),
        path_b64: path.base64(),
        size: received,
        atomic: true,
        etag: tag.map(Tag::text),
        stat,
    };
    Ok(Done::Whole { created: replaces.is_none(), tag, body: Box::new(body) })
}

/// A file that is written where it is.
async fn in_place(
    vm: &Vm,
    principal: &Principal,
    plan: Plan,
    body: &mut Sent,
    extended: bool,
) -> Result<Done, Problem> {
    let Plan { query, place, .. } = &plan;
    if !extended && let Some(what) = plan.beyond_stock() {
        return Err(vm.stock_cannot(what));
    }
    let how = match (extended, place.first, query.in_place) {
        (true, ..) => InPlace::PartExtended,
        (false, 0, false) => InPlace::Whole,
        (false, ..) => InPlace::Part,
    };
    if !extended {
        vm.needs_text(&query.path)?;
    }
    begin(vm, if extended { &XFileOpen::INFO } else { &GuestFileOpen::INFO }).await?;
    let digests = plan.digests.clone();
    let upload = Upload::in_place(
        &vm.handle,
        principal,
        &query.path,
        place.first,
        &plan.beneath,
        how,
        digests,
    )
    .await;
    let upload = upload.map_err(|error| vm.transfer_failed(error))?;
    let sent = body.pass_to(&upload, *place).await;
    sent.map_err(|problem| problem.written(upload.written()))?;
    let Written { received, .. } = upload.finish(Finish::Close).await.map_err(|broken| {
        let Broken { error, received } = broken;
        // A stock agent has a buffer: what it took and could not write out in the end is anywhere.
        let at_the_end = matches!(&error, TransferError::Call { command, .. }
            if [GuestFileFlush::INFO.name, GuestFileClose::INFO.name].contains(&command.name));
        let problem = vm.transfer_failed(error);
        if at_the_end && !extended { problem } else { problem.written(received) }
    })?;
    let body = UploadBody {
        path: query.path.lossy().into_owned(),
        path_b64: query.path.base64(),
        size: received,
        atomic: false,
        etag: None,
        stat: None,
    };
    Ok(Done::Whole { created: false, tag: None, body: Box::new(body) })
}

async fn begin(vm: &Vm, info: &'static CommandInfo) -> Result<(), Problem> {
    vm.admit(info).await?;
    vm.sends(info.name);
    Ok(())
}

/// The problem of an upload that leaves what was there as it was.
fn broken_off(vm: &Vm, broken: Broken, conditional: bool) -> Problem {
    let Broken { error, received } = broken;
    let stale = matches!(&error, TransferError::Call { command, source: crate::vm::CallError::Agent(e) }
        if command.name == XFileCommit::INFO.name
            && matches!(e.errno.as_deref(), Some("EEXIST" | "ENOENT" | "ESTALE")));
    if stale && conditional {
        return Problem::new(
            Code::PreconditionFailed,
            "What If-Match or If-None-Match asks for held when the upload began, and does not any \
             more: somebody else has written there meanwhile. Nothing was changed.",
        )
        .vm(vm.handle.id());
    }
    let kept = error.may_go_on();
    let problem = vm.transfer_failed(error);
    if kept { problem.received(received) } else { problem }
}

/// The body, on its way.
pub(super) struct Sent(Option<Body>);

impl Sent {
    pub(super) fn new(body: Body) -> Self {
        Self(Some(body))
    }

    /// Passes everything on, in chunks, until the upload ends or the body does.
    async fn pass_to(&mut self, upload: &Upload, place: Place) -> Result<(), Problem> {
        let mut at = upload.from;
        let mut chunk = Vec::new();
        let end = place.last.map(|last| last + 1);
        loop {
            let frame = tokio::select! {
                biased;
                frame = timeout(IDLE, self.next()) => frame,
                // It ends by itself only with an error, which is told at the finish.
                () = upload.ended() => return Ok(()),
            };
            let mut data = match frame {
                Ok(Some(Ok(data))) => data,
                Ok(None) => break,
                Ok(Some(Err(error))) => {
                    return Err(Problem::bad_request(format!(
                        "The request's body broke off or is not framed as its headers say: {error}."
                    )));
                }
                Err(_) => {
                    return Err(Problem::new(
                        Code::RequestTimeout,
                        format!("Nothing came of the request's body for {} s.", IDLE.as_secs()),
                    ));
                }
            };
            at += data.len() as u64;
            if end.is_some_and(|end| at > end) {
                return Err(wrong_length());
            }
            while !data.is_empty() {
                if chunk.capacity() == 0 {
                    chunk = upload.buffer();
                }
                let piece = data.split_to(data.len().min(PART - chunk.len()));
                chunk.extend_from_slice(&piece);
                if chunk.len() == PART && !upload.send(std::mem::take(&mut chunk)).await {
                    return Ok(());
                }
            }
        }
        if !chunk.is_empty() {
            upload.send(chunk).await;
        }
        if end.is_some_and(|end| at != end) {
            return Err(wrong_length());
        }
        Ok(())
    }

    async fn next(&mut self) -> Option<Result<bytes::Bytes, axum::Error>> {
        loop {
            let Some(frame) = self.0.as_mut()?.frame().await else {
                // What has ended must not be asked again.
                self.0 = None;
                return None;
            };
            match frame {
                Ok(frame) => {
                    if let Ok(data) = frame.into_data() {
                        return Some(Ok(data));
                    }
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// Reads what is still coming, for a while: a sender that is cut off while it sends may never
    /// read why.
    pub(super) fn drain(mut self) {
        tokio::spawn(timeout(DRAIN, async move {
            let mut bytes = 0;
            while let Some(Ok(data)) = self.next().await
                && bytes < DRAIN_BYTES
            {
                bytes += data.len();
            }
        }));
    }
}

fn wrong_length() -> Problem {
    Problem::bad_request("The body has not as many bytes as Content-Range says.")
}
