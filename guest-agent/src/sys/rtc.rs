//! The two ioctls that read and set a hardware clock.

use std::os::fd::AsFd;

use rustix::io;
use rustix::ioctl::{Getter, Opcode, Setter, ioctl, opcode};

/// `struct rtc_time` of `linux/rtc.h`, which is the C library's `struct tm` up to `tm_isdst`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct RtcTime {
    pub(crate) second: libc::c_int,
    pub(crate) minute: libc::c_int,
    pub(crate) hour: libc::c_int,
    pub(crate) day: libc::c_int,
    /// From 0.
    pub(crate) month: libc::c_int,
    /// From 1900.
    pub(crate) year: libc::c_int,
    // The kernel works these out by itself, or leaves them alone.
    pub(crate) weekday: libc::c_int,
    pub(crate) day_of_year: libc::c_int,
    pub(crate) is_summer: libc::c_int,
}

const RTC_RD_TIME: Opcode = opcode::read::<RtcTime>(b'p', 0x09);
const RTC_SET_TIME: Opcode = opcode::write::<RtcTime>(b'p', 0x0a);

/// What the clock shows.
pub(crate) fn read(clock: impl AsFd) -> io::Result<RtcTime> {
    // SAFETY: the kernel fills in the whole structure, whose layout is that of `linux/rtc.h`, or
    // fails; any bits are valid integers.
    unsafe { ioctl(clock, Getter::<RTC_RD_TIME, RtcTime>::new()) }
}

/// Sets the clock.
pub(crate) fn set(clock: impl AsFd, time: RtcTime) -> io::Result<()> {
    // SAFETY: the kernel only reads the structure, whose layout is that of `linux/rtc.h`.
    unsafe { ioctl(clock, Setter::<RTC_SET_TIME, RtcTime>::new(time)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opcodes_are_those_of_linux_rtc_h() {
        // These numbers differ on MIPS, PowerPC and SPARC, where the opcode functions know it.
        if cfg!(any(target_arch = "x86_64", target_arch = "aarch64")) {
            assert_eq!((RTC_RD_TIME, RTC_SET_TIME), (0x8024_7009, 0x4024_700a));
        }
        assert_eq!(size_of::<RtcTime>(), 36);
    }

    #[test]
    fn what_is_no_clock_says_so() {
        let null = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(read(&null), Err(io::Errno::NOTTY));
        assert_eq!(set(&null, RtcTime::default()), Err(io::Errno::NOTTY));
    }
}
