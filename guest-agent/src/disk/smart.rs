//! The NVMe log page "SMART / Health Information" (NVMe Base Specification, log page 02h).
//!
//! All numbers are little-endian. The counters have 128 bits, from byte 32 on.

use qga_proto::command::NvmeSmart;

use crate::sys::nvme::SMART_LOG_BYTES;

/// Reads a log page.
pub(crate) fn parse(log: &[u8; SMART_LOG_BYTES]) -> NvmeSmart {
    let half = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&log[at..at + 8]);
        u64::from_le_bytes(bytes)
    };
    let counter = |number: usize| (half(32 + 16 * number), half(40 + 16 * number));
    let (data_units_read_lo, data_units_read_hi) = counter(0);
    let (data_units_written_lo, data_units_written_hi) = counter(1);
    let (host_read_commands_lo, host_read_commands_hi) = counter(2);
    let (host_write_commands_lo, host_write_commands_hi) = counter(3);
    let (controller_busy_time_lo, controller_busy_time_hi) = counter(4);
    let (power_cycles_lo, power_cycles_hi) = counter(5);
    let (power_on_hours_lo, power_on_hours_hi) = counter(6);
    let (unsafe_shutdowns_lo, unsafe_shutdowns_hi) = counter(7);
    let (media_errors_lo, media_errors_hi) = counter(8);
    let (number_of_error_log_entries_lo, number_of_error_log_entries_hi) = counter(9);
    NvmeSmart {
        critical_warning: log[0].into(),
        // Kelvin.
        temperature: u16::from_le_bytes([log[1], log[2]]).into(),
        available_spare: log[3].into(),
        available_spare_threshold: log[4].into(),
        percentage_used: log[5].into(),
        data_units_read_lo,
        data_units_read_hi,
        data_units_written_lo,
        data_units_written_hi,
        host_read_commands_lo,
        host_read_commands_hi,
        host_write_commands_lo,
        host_write_commands_hi,
        controller_busy_time_lo,
        controller_busy_time_hi,
        power_cycles_lo,
        power_cycles_hi,
        power_on_hours_lo,
        power_on_hours_hi,
        unsafe_shutdowns_lo,
        unsafe_shutdowns_hi,
        media_errors_lo,
        media_errors_hi,
        number_of_error_log_entries_lo,
        number_of_error_log_entries_hi,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_stand_where_the_specification_has_them() {
        let mut log = [0; SMART_LOG_BYTES];
        log[..6].copy_from_slice(&[1, 0x2C, 0x01, 100, 10, 3]);
        for counter in 0..10_u8 {
            log[32 + 16 * usize::from(counter)] = counter + 1;
            log[40 + 16 * usize::from(counter)] = counter + 101;
        }
        let smart = parse(&log);
        assert_eq!((smart.critical_warning, smart.temperature), (1, 300));
        assert_eq!((smart.available_spare, smart.available_spare_threshold), (100, 10));
        assert_eq!(smart.percentage_used, 3);
        assert_eq!((smart.data_units_read_lo, smart.data_units_read_hi), (1, 101));
        assert_eq!((smart.power_cycles_lo, smart.power_on_hours_lo), (6, 7));
        assert_eq!((smart.unsafe_shutdowns_hi, smart.media_errors_hi), (108, 109));
        assert_eq!(smart.number_of_error_log_entries_lo, 10);
    }
}
