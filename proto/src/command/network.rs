//! `guest-network-get-interfaces`, `guest-network-get-route`.

use serde::{Deserialize, Serialize};

use super::{Command, CommandInfo};

/// `guest-network-get-interfaces`: interfaces with addresses and counters (since 1.1).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestNetworkGetInterfaces {}

impl Command for GuestNetworkGetInterfaces {
    const INFO: CommandInfo = CommandInfo::query("guest-network-get-interfaces");
    type Return = Vec<NetworkInterface>;
}

/// One interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NetworkInterface {
    /// Its name; labels such as `eth0:1` count as interfaces of their own.
    pub name: String,
    /// Its MAC address, lower case with colons.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hardware_address: Option<String>,
    /// Its addresses; absent when it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_addresses: Option<Vec<IpAddress>>,
    /// Its counters; agents leave them out for interfaces without address (since 2.11).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statistics: Option<InterfaceStatistics>,
}

/// One address of an interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct IpAddress {
    /// The address, without scope.
    pub ip_address: String,
    /// Of which kind it is.
    pub ip_address_type: IpAddressType,
    /// The length of its network's prefix, in bits.
    pub prefix: i64,
}

/// The kind of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum IpAddressType {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

/// Counters of an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct InterfaceStatistics {
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Bad packets received.
    pub rx_errs: u64,
    /// Packets dropped on receipt.
    pub rx_dropped: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Packets that failed to be sent.
    pub tx_errs: u64,
    /// Packets dropped before sending.
    pub tx_dropped: u64,
}

/// `guest-network-get-route`: the kernel's routes (since 9.1 on Linux).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestNetworkGetRoute {}

impl Command for GuestNetworkGetRoute {
    const INFO: CommandInfo = CommandInfo::query("guest-network-get-route");
    type Return = Vec<NetworkRoute>;
}

/// One route. IPv4 has gateway, mask, irtt, mtu and window; IPv6 has the prefix lengths, source
/// and next hop.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NetworkRoute {
    /// The interface that it leads through.
    pub iface: String,
    /// Where it leads to.
    pub destination: String,
    /// Its cost.
    pub metric: i64,
    /// 4 or 6.
    pub version: i64,
    /// IPv4: by way of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    /// IPv4: the destination's mask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask: Option<String>,
    /// IPv4: initial round-trip time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub irtt: Option<i64>,
    /// The kernel's flags.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flags: Option<u64>,
    /// References to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refcnt: Option<i64>,
    /// Look-ups of it.
    #[serde(default, rename = "use", skip_serializing_if = "Option::is_none")]
    pub uses: Option<i64>,
    /// IPv4: TCP window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<i64>,
    /// IPv4: largest packet, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<i64>,
    /// IPv6: length of the destination's prefix, in bits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desprefixlen: Option<String>,
    /// IPv6: the source that it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// IPv6: length of the source's prefix, in bits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub srcprefixlen: Option<String>,
    /// IPv6: by way of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nexthop: Option<String>,
}
