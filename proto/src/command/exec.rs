//! `guest-exec`, `guest-exec-status`.

use std::fmt;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::{Command, CommandInfo, Right};
use crate::base64::{Base64, Base64Text};

/// `guest-exec`: starts a program (since 2.5).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct GuestExec {
    /// The program; looked up in PATH if it has no slash.
    pub path: String,
    /// Its arguments, without its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arg: Option<Vec<String>>,
    /// Its whole environment, `NAME=value`; absent means the agent's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<Vec<String>>,
    /// What it reads from standard input, base64; absent means nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_data: Option<Base64Text>,
    /// Which output to keep; absent means none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capture_output: Option<CaptureOutput>,
}

impl Command for GuestExec {
    const INFO: CommandInfo = CommandInfo::change("guest-exec", Right::Exec);
    type Return = ExecStarted;
}

/// What `guest-exec` answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ExecStarted {
    /// The process.
    pub pid: i64,
}

/// Which output to keep. On the wire also a boolean: `true` means separated, `false` none. Agents
/// before 8.0 know only the boolean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum CaptureOutput {
    /// None.
    None,
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// Both, apart.
    Separated,
    /// Both, as they come.
    Merged,
}

impl<'de> Deserialize<'de> for CaptureOutput {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Alternate;
        impl<'de> Visitor<'de> for Alternate {
            type Value = CaptureOutput;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a boolean or the name of a mode")
            }

            fn visit_newtype_struct<D: Deserializer<'de>>(
                self,
                deserializer: D,
            ) -> Result<CaptureOutput, D::Error> {
                deserializer.deserialize_any(self)
            }

            fn visit_bool<E: de::Error>(self, both: bool) -> Result<CaptureOutput, E> {
                Ok(if both { CaptureOutput::Separated } else { CaptureOutput::None })
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<CaptureOutput, E> {
                match name {
                    "none" => Ok(CaptureOutput::None),
                    "stdout" => Ok(CaptureOutput::Stdout),
                    "stderr" => Ok(CaptureOutput::Stderr),
                    "separated" => Ok(CaptureOutput::Separated),
                    "merged" => Ok(CaptureOutput::Merged),
                    _ => Err(E::unknown_variant(
                        name,
                        &["none", "stdout", "stderr", "separated", "merged"],
                    )),
                }
            }
        }
        // The name is the one that qemu-ga puts into its type errors.
        deserializer.deserialize_newtype_struct("GuestExecCaptureOutput", Alternate)
    }
}

/// `guest-exec-status`: what became of a program. Its result is given once (since 2.5).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestExecStatus {
    /// From `guest-exec`.
    pub pid: i64,
}

impl Command for GuestExecStatus {
    /// It takes the result away: not repeated.
    const INFO: CommandInfo = CommandInfo::change("guest-exec-status", Right::Exec);
    type Return = ExecStatus;
}

/// What `guest-exec-status` answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ExecStatus {
    /// Whether it has ended and its output is complete.
    pub exited: bool,
    /// Its exit code, if it ended by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exitcode: Option<i64>,
    /// The signal that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i64>,
    /// Its standard output, base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, content_encoding = "base64"))]
    pub out_data: Option<Base64>,
    /// Its standard error, base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, content_encoding = "base64"))]
    pub err_data: Option<Base64>,
    /// Whether standard output was longer than the agent keeps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out_truncated: Option<bool>,
    /// Whether standard error was longer than the agent keeps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub err_truncated: Option<bool>,
}
