//! One scan: some coefficients of some components, for every block of the picture (ITU-T T.81, B.2.3).

use super::bits::{Bits, Codes};
use super::blocks::{self, Band};
use super::{Component, Fault, Frame, Tables, short};

/// How often the blocks of a picture are gone through at most, all scans together. A scan may be almost
/// empty and still go through every block.
const MAX_PASSES: usize = 32;
/// Blocks that may be gone through however small the picture is.
const FREE_BLOCKS: usize = 1 << 20;

/// Blocks that all scans together may go through.
pub(super) fn allowance(units: (usize, usize), components: &[Component]) -> usize {
    let a_unit: usize = components.iter().map(|c| c.factor.0 * c.factor.1).sum();
    (MAX_PASSES * units.0 * units.1 * a_unit).max(FREE_BLOCKS)
}

/// One component of a scan.
struct Part {
    /// Its place among the components of the picture.
    index: usize,
    /// Codes of the means and of the other coefficients, as far as the scan needs them.
    dc: Option<Codes>,
    ac: Option<Codes>,
    /// The mean of the block before.
    last: i32,
}

impl Frame {
    /// Reads a scan whose data begin at `at`; gives where they end.
    pub(super) fn scan(
        &mut self,
        header: &[u8],
        tables: &Tables,
        bytes: &[u8],
        at: usize,
    ) -> Result<usize, Fault> {
        let [count, rest @ ..] = header else { return Err(short()) };
        let count = usize::from(*count);
        let (parts, [start, end, depth, ..]) =
            rest.split_at_checked(2 * count).ok_or_else(short)?
        else {
            return Err(short());
        };
        let band = self.band([*start, *end, *depth], count)?;
        let mut chosen = self.choose(parts, tables, band)?;
        let (across, down) = match chosen[..] {
            [] => return Err(Fault::damaged("a scan of nothing")),
            [Part { index, .. }] => {
                let (width, height) = self.components[index].size;
                (width.div_ceil(8), height.div_ceil(8))
            }
            _ => self.units,
        };
        self.spend(across * down, &chosen)?;
        let mut bits = Bits::new(bytes, at);
        let mut blank = 0u32;
        for unit in 0..across * down {
            if tables.restart > 0 && unit > 0 && unit % tables.restart == 0 {
                bits.restart(unit / tables.restart - 1)?;
                chosen.iter_mut().for_each(|part| part.last = 0);
                blank = 0;
            }
            let place = (unit % across, unit / across);
            self.read_unit(place, &mut chosen, band, &mut bits, &mut blank)?;
            bits.check()?;
        }
        Ok(bits.position())
    }

    /// The coefficients of a scan of `count` components, from the end of its header.
    fn band(&self, [start, end, depth]: [u8; 3], count: usize) -> Result<Band, Fault> {
        let band = match self.progressive {
            false => Band { start: 0, end: 63, refines: false, low: 0 },
            true => Band {
                start: usize::from(start),
                end: usize::from(end),
                refines: depth >> 4 != 0,
                low: u32::from(depth & 15),
            },
        };
        let means = band.start == 0;
        let sound = band.start <= band.end && band.end < 64 && band.low < 14;
        if !sound || self.progressive && (means != (band.end == 0) || !means && count != 1) {
            return Err(Fault::damaged("a scan of a kind that there is not"));
        }
        Ok(band)
    }

    /// The components that a scan's header names, with their code tables.
    fn choose(&mut self, parts: &[u8], tables: &Tables, band: Band) -> Result<Vec<Part>, Fault> {
        let means = band.start == 0;
        let mut chosen: Vec<Part> = Vec::with_capacity(parts.len() / 2);
        for part in parts.chunks_exact(2) {
            let index = self.components.iter().position(|c| c.id == part[0]);
            let index = index.ok_or(Fault::damaged("a scan of a component that there is not"))?;
            if chosen.iter().any(|other| other.index == index) {
                return Err(Fault::damaged("a scan has a component twice"));
            }
            let component = &mut self.components[index];
            if component.quantisation.is_none() {
                let table = tables.quantisation.get(component.table).copied().flatten();
                component.quantisation =
                    Some(table.ok_or(Fault::damaged("a quantisation table is missing"))?);
            }
            let pick = |kind: &'_ [Option<Codes>; 4], slot: u8, needed: bool| {
                let codes = kind.get(usize::from(slot)).cloned().flatten().filter(|_| needed);
                if needed && codes.is_none() {
                    return Err(Fault::damaged("a Huffman table is missing"));
                }
                Ok(codes)
            };
            let dc = pick(&tables.dc, part[1] >> 4, means && !band.refines)?;
            let ac = pick(&tables.ac, part[1] & 15, band.end > 0)?;
            chosen.push(Part { index, dc, ac, last: 0 });
        }
        Ok(chosen)
    }

    /// Takes the blocks of a scan of so many units from what all scans may go through.
    fn spend(&mut self, units: usize, chosen: &[Part]) -> Result<(), Fault> {
        let each = |part: &Part| {
            let (wide, high) = self.components[part.index].factor;
            if chosen.len() == 1 { 1 } else { wide * high }
        };
        let visits = units * chosen.iter().map(each).sum::<usize>();
        let Some(left) = self.blocks_left.checked_sub(visits) else {
            return Err(Fault::Damaged(format!(
                "its scans go through the picture more than {MAX_PASSES} times"
            )));
        };
        self.blocks_left = left;
        Ok(())
    }

    /// Reads the blocks of the unit at (column, line): one block in a scan of one component.
    fn read_unit(
        &mut self,
        (column, line): (usize, usize),
        chosen: &mut [Part],
        band: Band,
        bits: &mut Bits<'_>,
        blank: &mut u32,
    ) -> Result<(), Fault> {
        let alone = chosen.len() == 1;
        for Part { index, dc, ac, last } in chosen {
            let component = &mut self.components[*index];
            let (wide, high) = if alone { (1, 1) } else { component.factor };
            for i in 0..wide * high {
                let place = (column * wide + i % wide, line * high + i / wide);
                match (component.coefficients.is_empty(), &*dc, &*ac) {
                    (true, Some(dc), Some(ac)) => {
                        let mut block = [0; 64];
                        blocks::sequential(bits, (dc, ac), last, &mut block)?;
                        component.put(place, &block);
                    }
                    (_, dc, None) => {
                        let block = component.coefficients_at(place);
                        blocks::mean(bits, dc.as_ref(), last, band, block)?;
                    }
                    (_, _, Some(ac)) => {
                        let block = component.coefficients_at(place);
                        blocks::band(bits, ac, blank, band, block)?;
                    }
                }
            }
        }
        Ok(())
    }
}
