//! `/vms/{id}/users/{name}`: passwords and SSH keys. Neither is ever logged.

use std::fmt;

use axum::Json as Answer;
use qga_proto::base64::Base64Text;
use qga_proto::command::{
    AuthorizedKeys, Empty, GuestSetUserPassword, GuestSshAddAuthorizedKeys,
    GuestSshGetAuthorizedKeys, GuestSshRemoveAuthorizedKeys, Right,
};
use serde::Deserialize;
use utoipa::ToSchema;

use super::call_timeout::CallTimeout;
use super::caller::{Caller, Vm};
use super::document::CALL_PROBLEMS;
use super::error::Problem;
use super::extract::{Json, Path};

/// The user in the path; a struct, so that what is wrong is told by its name.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct UserPath {
    /// The VM.
    #[param(example = "web-1")]
    id: String,
    /// The guest's user.
    #[param(example = "ada")]
    name: String,
}

impl UserPath {
    fn vm(&self, caller: &Caller, timeout: CallTimeout) -> Result<Vm, Problem> {
        let vm = caller.vm(&self.id, Right::Accounts)?.within(timeout);
        if !(1..=256).contains(&self.name.len()) || self.name.chars().any(char::is_control) {
            return Err(Problem::bad_request(
                "The user's name in the path must have 1 to 256 bytes and no control characters.",
            ));
        }
        Ok(vm)
    }
}

/// A new password.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"password": "correct horse battery staple"}))]
pub(super) struct PasswordRequest {
    /// As the user types it, or with `crypted` its hash. Without line ends.
    #[schema(max_length = 65536)]
    password: String,
    /// Whether it is a crypt(3) hash already.
    #[serde(default)]
    crypted: bool,
}

impl fmt::Debug for PasswordRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PasswordRequest").field("crypted", &self.crypted).finish_non_exhaustive()
    }
}

/// Keys, as they stand in the file.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"keys": ["ssh-ed25519 AAAAC3Nza… ada@example.org"]}))]
pub(super) struct KeysRequest {
    /// All that are to be in the file; none empties it.
    keys: Vec<String>,
}

/// Keys that come and keys that go.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"add": ["ssh-ed25519 AAAAC3Nza… ada@example.org"], "remove": []}))]
pub(super) struct KeysChange {
    /// To be added; those that are there already are not doubled.
    #[serde(default)]
    add: Vec<String>,
    /// To be removed; those that are not there count as removed.
    #[serde(default)]
    remove: Vec<String>,
}

/// What agents refuse too, found before anything is sent.
fn check_keys(member: &str, keys: &[String]) -> Result<(), Problem> {
    let bad = |key: &String| {
        key.trim().is_empty() || key.starts_with('#') || key.chars().any(char::is_control)
    };
    match keys.iter().position(bad) {
        None => Ok(()),
        Some(at) => Err(Problem::bad_member(
            member,
            format_args!("entry {at} is no OpenSSH public key on one line"),
        )),
    }
}

/// Set a user's password
///
/// `guest-set-user-password`. Neither the gateway's log nor its problems ever hold it.
#[utoipa::path(
    put,
    path = "/vms/{id}/users/{name}/password",
    tag = "accounts",
    params(UserPath, CallTimeout),
    request_body = PasswordRequest,
    responses((status = 200, description = "Set.", body = Empty)),
    extensions(
        ("x-qga-right" = json!(Right::Accounts)),
        ("x-qga-command" = json!("guest-set-user-password")),
        ("x-qga-problems" = json!(CALL_PROBLEMS)),
    )
)]
pub(super) async fn set_password(
    caller: Caller,
    Path(user): Path<UserPath>,
    timeout: CallTimeout,
    Json(request): Json<PasswordRequest>,
) -> Result<Answer<Empty>, Problem> {
    let vm = user.vm(&caller, timeout)?;
    let PasswordRequest { password, crypted } = request;
    if password.len() > 1 << 16 || password.contains(['\n', '\r', '\0']) {
        let why = "must have at most 65536 bytes, and no line end or NUL";
        return Err(Problem::bad_member("password", why));
    }
    let password = Base64Text::new(password);
    vm.call(GuestSetUserPassword { username: user.name, password, crypted }).await.map(Answer)
}

/// List a user's SSH keys
///
/// `guest-ssh-get-authorized-keys`: the lines of the user's `authorized_keys` without comments.
#[utoipa::path(
    get,
    path = "/vms/{id}/users/{name}/ssh-keys",
    tag = "accounts",
    params(UserPath, CallTimeout),
    responses((
        status = 200,
        description = "The keys.",
        body = AuthorizedKeys,
        example = json!({"keys": ["ssh-ed25519 AAAAC3Nza… ada@example.org"]})
    )),
    extensions(
        ("x-qga-right" = json!(Right::Accounts)),
        ("x-qga-command" = json!("guest-ssh-get-authorized-keys")),
        ("x-qga-problems" = json!(CALL_PROBLEMS)),
    )
)]
pub(super) async fn list_ssh_keys(
    caller: Caller,
    Path(user): Path<UserPath>,
    timeout: CallTimeout,
) -> Result<Answer<AuthorizedKeys>, Problem> {
    let vm = user.vm(&caller, timeout)?;
    vm.call(GuestSshGetAuthorizedKeys { username: user.name }).await.map(Answer)
}

/// Replace a user's SSH keys
///
/// `guest-ssh-add-authorized-keys` with `reset`: the file holds these keys and nothing else.
#[utoipa::path(
    put,
    path = "/vms/{id}/users/{name}/ssh-keys",
    tag = "accounts",
    params(UserPath, CallTimeout),
    request_body = KeysRequest,
    responses((status = 200, description = "Replaced.", body = Empty)),
    extensions(
        ("x-qga-right" = json!(Right::Accounts)),
        ("x-qga-command" = json!("guest-ssh-add-authorized-keys")),
        ("x-qga-problems" = json!(CALL_PROBLEMS)),
    )
)]
pub(super) async fn replace_ssh_keys(
    caller: Caller,
    Path(user): Path<UserPath>,
    timeout: CallTimeout,
    Json(KeysRequest { keys }): Json<KeysRequest>,
) -> Result<Answer<Empty>, Problem> {
    let vm = user.vm(&caller, timeout)?;
    check_keys("keys", &keys)?;
    let change = GuestSshAddAuthorizedKeys { username: user.name, keys, reset: Some(true) };
    vm.call(change).await.map(Answer)
}

/// Add and remove SSH keys of a user
///
/// `guest-ssh-add-authorized-keys`, then `guest-ssh-remove-authorized-keys`, each if there is
/// something for it. They are two commands: if the second fails, the problem says that the first was
/// done.
#[utoipa::path(
    patch,
    path = "/vms/{id}/users/{name}/ssh-keys",
    tag = "accounts",
    params(UserPath, CallTimeout),
    request_body = KeysChange,
    responses((status = 200, description = "Added and removed.", body = Empty)),
    extensions(
        ("x-qga-right" = json!(Right::Accounts)),
        ("x-qga-command" = json!("guest-ssh-add-authorized-keys, guest-ssh-remove-authorized-keys")),
        ("x-qga-problems" = json!(CALL_PROBLEMS)),
    )
)]
pub(super) async fn change_ssh_keys(
    caller: Caller,
    Path(user): Path<UserPath>,
    timeout: CallTimeout,
    Json(KeysChange { add, remove }): Json<KeysChange>,
) -> Result<Answer<Empty>, Problem> {
    let vm = user.vm(&caller, timeout)?;
    check_keys("add", &add)?;
    check_keys("remove", &remove)?;
    if add.is_empty() && remove.is_empty() {
        return Err(Problem::bad_request("Neither \"add\" nor \"remove\" names a key."));
    }
    if add.iter().any(|key| remove.contains(key)) {
        return Err(Problem::bad_member("remove", "names a key that \"add\" names too"));
    }
    let added = add.len();
    if added > 0 {
        let username = user.name.clone();
        vm.call(GuestSshAddAuthorizedKeys { username, keys: add, reset: None }).await?;
    }
    if !remove.is_empty() {
        let removal = GuestSshRemoveAuthorizedKeys { username: user.name, keys: remove };
        let removed = vm.call(removal).await;
        removed.map_err(|problem| match added {
            0 => problem,
            n => problem.preceded_by(&format!("The keys to be added, {n}, are in the file.")),
        })?;
    }
    Ok(Answer(Empty {}))
}
