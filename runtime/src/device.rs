//! Where a model runs.

use std::fmt;
use std::str::FromStr;

/// A device: the processor, or a GPU by number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Device {
    /// The processor.
    #[default]
    Cpu,
    /// An NVIDIA GPU, as the driver numbers them.
    Cuda(usize),
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(n) => write!(f, "cuda:{n}"),
        }
    }
}

impl FromStr for Device {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let number = match s {
            "cpu" => return Ok(Device::Cpu),
            "cuda" => Some(0),
            _ => s.strip_prefix("cuda:").and_then(|n| n.parse().ok()),
        };
        number
            .map(Device::Cuda)
            .ok_or_else(|| format!("`{s}` is no device; the devices are cpu, cuda and cuda:N"))
    }
}

#[cfg(test)]
mod tests {
    use super::Device;

    #[test]
    fn names_are_read_and_written() {
        for (text, device) in [
            ("cpu", Device::Cpu),
            ("cuda:0", Device::Cuda(0)),
            ("cuda:3", Device::Cuda(3)),
        ] {
            assert_eq!(text.parse(), Ok(device));
            assert_eq!(device.to_string(), text);
        }
        assert_eq!("cuda".parse(), Ok(Device::Cuda(0)));
        assert!("cuda:x".parse::<Device>().is_err() && "gpu".parse::<Device>().is_err());
    }
}
