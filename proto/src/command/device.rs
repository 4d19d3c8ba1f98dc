//! `guest-get-devices`.

use serde::{Deserialize, Serialize};

use super::{Command, CommandInfo};

/// `guest-get-devices`: devices and their drivers (since 5.2). Only agents on Windows have it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestGetDevices {}

impl Command for GuestGetDevices {
    const INFO: CommandInfo = CommandInfo::query("guest-get-devices");
    type Return = Vec<DeviceInfo>;
}

/// One device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DeviceInfo {
    /// The name of its driver.
    pub driver_name: String,
    /// When the driver was made, in nanoseconds since 1970 UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver_date: Option<i64>,
    /// The driver's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver_version: Option<String>,
    /// What the device is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<DeviceId>,
}

/// What a device is, by the bus that it is on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum DeviceId {
    /// PCI.
    Pci(PciDeviceId),
    /// A bus that is newer than this list.
    #[serde(other)]
    Other,
}

/// A device on the PCI bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PciDeviceId {
    /// Who made it.
    pub vendor_id: u16,
    /// Which device of that maker.
    pub device_id: u16,
}
