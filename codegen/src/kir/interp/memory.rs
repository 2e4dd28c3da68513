//! Memory of the interpreter: separate areas, every access checked.

/// Areas begin at multiples of this, so that no address reaches from one into the next.
const AREA_BITS: u32 = 36;

/// One area.
struct Area<'a> {
    name: String,
    bytes: &'a mut [u8],
    writable: bool,
}

/// The memory that a kernel sees: its parameters' buffers and its stack areas.
pub(super) struct Memory<'a> {
    areas: Vec<Area<'a>>,
}

impl<'a> Memory<'a> {
    pub fn new() -> Self {
        Memory { areas: Vec::new() }
    }

    /// Adds an area, and returns its address: a multiple of 64.
    pub fn add(&mut self, name: &str, bytes: &'a mut [u8], writable: bool) -> i64 {
        self.areas.push(Area {
            name: name.to_string(),
            bytes,
            writable,
        });
        (self.areas.len() as i64) << AREA_BITS
    }

    /// The `len` bytes at `address`.
    pub fn read(&self, address: i64, len: usize) -> Result<&[u8], String> {
        let (area, start) = self.find(address, len)?;
        Ok(&self.areas[area].bytes[start..start + len])
    }

    /// Stores bytes.
    pub fn write(&mut self, address: i64, bytes: &[u8]) -> Result<(), String> {
        let (area, start) = self.find(address, bytes.len())?;
        let area = &mut self.areas[area];
        if !area.writable {
            return Err(format!("a store to {}, which is an input", area.name));
        }
        area.bytes[start..start + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    /// Area and offset of an access. An offset may be up to half an area below its start, which
    /// is then reported as what it is: before the area that it is nearest to.
    fn find(&self, address: i64, len: usize) -> Result<(usize, usize), String> {
        let half = 1i64 << (AREA_BITS - 1);
        let number = address.saturating_add(half) >> AREA_BITS;
        let index = usize::try_from(number - 1)
            .ok()
            .filter(|&i| i < self.areas.len())
            .ok_or_else(|| format!("an access to address {address:#x}, where nothing is"))?;
        let area = &self.areas[index];
        let offset = address - (number << AREA_BITS);
        let within = usize::try_from(offset)
            .ok()
            .filter(|&start| start + len <= area.bytes.len());
        within.map(|start| (index, start)).ok_or_else(|| {
            format!(
                "an access to {len} bytes at offset {offset} of {}, which has {} bytes",
                area.name,
                area.bytes.len()
            )
        })
    }
}
