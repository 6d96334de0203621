//! AMX: tiles of sixteen rows of sixteen 32-bit words, multiplied with `TDPBF16PS`.
//!
//! A tile of the left operand holds rows of words of two bf16 (neighbours along k), a tile of the
//! right operand has one word of k a row, as [`bf16`](super::bf16) lays them out; the sums are
//! `f32`. Results may differ from AVX-512 BF16's in their last bits: the products of a word are
//! added in another order.

/// Rows of a tile, and words of a row.
pub(crate) const TILE: usize = 16;
/// Most tiles of the result that stay in registers: rows and columns of tiles.
pub(crate) const ROW_TILES: usize = 2;
pub(crate) const COLUMN_TILES: usize = 3;

/// Proof that the CPU and the operating system let this process use the tiles.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tiles(());

/// One block of tiles of a product. Distances are in words.
#[derive(Clone, Copy)]
#[cfg_attr(not(all(target_arch = "x86_64", target_os = "linux")), allow(dead_code))]
pub(crate) struct Operands {
    /// `16 * row tiles` rows of `16 * steps` words.
    pub a: *const f32,
    pub lda: usize,
    /// `16 * steps` rows of `16 * column tiles` words.
    pub b: *const f32,
    pub ldb: usize,
    /// Where, counted from `b`, each step's sixteen rows begin: every sixteenth entry, one a step;
    /// null: they follow each other.
    pub b_table: *const usize,
    /// `16 * row tiles` rows of `16 * column tiles` sums.
    pub c: *mut f32,
    pub ldc: usize,
    pub steps: usize,
    /// Whether the sums start from what C holds rather than from zero.
    pub load: bool,
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod x86 {
    use super::{Operands, TILE, Tiles};
    use std::arch::asm;
    use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};
    use std::sync::OnceLock;

    impl Tiles {
        /// The proof, if the CPU has tiles; the first call asks the operating system for them.
        pub(crate) fn get() -> Option<Self> {
            static FOUND: OnceLock<bool> = OnceLock::new();
            FOUND.get_or_init(|| in_cpu() && permitted()).then_some(Self(()))
        }

        /// Sets up the tiles of this thread for [`Ready::multiply`].
        pub(crate) fn ready(self) -> Ready {
            let layout = Layout::FULL;
            // SAFETY: `self` proves that the instruction is there and permitted; the layout is a
            // valid one of palette 1.
            unsafe {
                asm!("ldtilecfg [{}]", in(reg) &raw const layout,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack, readonly));
            }
            Ready(std::marker::PhantomData)
        }
    }

    /// `LDTILECFG`'s operand.
    #[repr(C, align(64))]
    struct Layout {
        palette: u8,
        start_row: u8,
        reserved: [u8; 14],
        row_bytes: [u16; 16],
        rows: [u8; 16],
    }

    impl Layout {
        /// All eight tiles of their full size.
        const FULL: Self = {
            let (mut row_bytes, mut rows) = ([0; 16], [0; 16]);
            let mut i = 0;
            while i < 8 {
                row_bytes[i] = 4 * TILE as u16;
                rows[i] = TILE as u8;
                i += 1;
            }
            Self { palette: 1, start_row: 0, reserved: [0; 14], row_bytes, rows }
        };
    }

    fn in_cpu() -> bool {
        if __cpuid(0).eax < 7 || !std::arch::is_x86_feature_detected!("xsave") {
            return false;
        }
        let features = __cpuid_count(7, 0).edx;
        let (bf16, tile) = (features >> 22 & 1, features >> 24 & 1);
        // SAFETY: XSAVE was found; OSXSAVE is what makes the standard library report it.
        bf16 & tile == 1 && unsafe { saved_by_system() }
    }

    /// Whether the system saves the tiles' state (bits 17 and 18 of XCR0).
    ///
    /// # Safety
    /// The CPU has XSAVE, and the system has enabled it.
    #[target_feature(enable = "xsave")]
    unsafe fn saved_by_system() -> bool {
        // SAFETY: as the caller vouches.
        unsafe { _xgetbv(0) >> 17 & 3 == 3 }
    }

    /// Asks Linux for the tiles' state: `arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)`, for
    /// all threads.
    fn permitted() -> bool {
        let answer: i64;
        // SAFETY: the call takes two integers and touches no memory of ours.
        unsafe {
            asm!("syscall", inlateout("rax") 158_i64 => answer, in("rdi") 0x1023, in("rsi") 18,
                out("rcx") _, out("r11") _, options(nostack));
        }
        answer == 0
    }

    /// The tiles of this thread are laid out; not to be sent to another.
    pub(crate) struct Ready(std::marker::PhantomData<*const ()>);

    impl Drop for Ready {
        /// Leaves the tiles unused, so that switching threads need not save them.
        fn drop(&mut self) {
            // SAFETY: a `Ready` proves that the instruction is there and permitted.
            unsafe {
                asm!("tilerelease",
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack, nomem));
            }
        }
    }

    /// Sets the tiles of the result, multiplies step by step, and stores them; `advance` finds the
    /// next rows of B.
    macro_rules! run {
        ($o:ident, [$($clear:literal)*], [$($load:literal)*], [$($step:literal)*], [$($store:literal)*],
            [$($before:literal)*], [$($after:literal)*], $($b:tt)*) => {
            asm!(
                "test {load}, {load}",
                "jnz 3f",
                $($clear,)*
                "jmp 2f",
                "3:",
                $($load,)*
                "2:",
                $($before,)*
                $($step,)*
                "add {a0}, 64",
                "add {a1}, 64",
                $($after,)*
                "dec {steps}",
                "jnz 2b",
                $($store,)*
                a0 = inout(reg) $o.a => _,
                a1 = inout(reg) $o.a.wrapping_add(TILE * $o.lda) => _,
                lda = in(reg) 4 * $o.lda,
                ldb = in(reg) 4 * $o.ldb,
                c0 = in(reg) $o.c,
                c1 = in(reg) $o.c.wrapping_add(TILE * $o.ldc),
                ldc = in(reg) 4 * $o.ldc,
                steps = inout(reg) $o.steps => _,
                load = in(reg) u64::from($o.load),
                $($b)*
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            )
        };
    }

    macro_rules! block {
        ($o:ident, $clear:tt, $load:tt, $step:tt, $store:tt) => {{
            let o: &Operands = $o;
            if o.b_table.is_null() {
                run!(o, $clear, $load, $step, $store, [], ["add {b}, {b_step}"],
                    b = inout(reg) o.b => _, b_step = in(reg) 4 * TILE * o.ldb,);
            } else {
                run!(o, $clear, $load, $step, $store,
                    ["mov {b}, [{table}]" "lea {b}, [{base} + 4*{b}]" "add {table}, 128"], [],
                    b = out(reg) _, base = in(reg) o.b, table = inout(reg) o.b_table => _,);
            }
        }};
    }

    impl Ready {
        /// `C = A B`, or `C += A B`, of `rows` (1 or 2) by `columns` (1 to 3) tiles.
        ///
        /// # Safety
        /// A and B are readable and C is writable over the extent that `o` gives; `o.steps > 0`,
        /// and a table has
        /// `16 * (o.steps - 1) + 1` entries.
        pub(crate) unsafe fn multiply(&self, rows: usize, columns: usize, o: &Operands) {
            // SAFETY: `self` proves that this thread's tiles are laid out; the caller vouches for
            // the operands, and every address below is a row of one of them.
            unsafe {
                match (rows, columns) {
                    (1, 1) => block!(o,
                        ["tilezero tmm0"],
                        ["tileloadd tmm0, [{c0} + {ldc}*1]"],
                        ["tileloadd tmm6, [{a0} + {lda}*1]"
                         "tileloadd tmm7, [{b} + {ldb}*1]"
                         "tdpbf16ps tmm0, tmm6, tmm7"],
                        ["tilestored [{c0} + {ldc}*1], tmm0"
                         "/* {c1} */"]),
                    (1, 2) => block!(o,
                        ["tilezero tmm0" "tilezero tmm1"],
                        ["tileloadd tmm0, [{c0} + {ldc}*1]" "tileloadd tmm1, [{c0} + {ldc}*1 + 64]"],
                        ["tileloadd tmm4, [{a0} + {lda}*1]"
                         "tileloadd tmm6, [{b} + {ldb}*1]"
                         "tdpbf16ps tmm0, tmm4, tmm6"
                         "tileloadd tmm7, [{b} + {ldb}*1 + 64]"
                         "tdpbf16ps tmm1, tmm4, tmm7"],
                        ["tilestored [{c0} + {ldc}*1], tmm0" "tilestored [{c0} + {ldc}*1 + 64], tmm1"
                         "/* {c1} */"]),
                    (1, 3) => block!(o,
                        ["tilezero tmm0" "tilezero tmm1" "tilezero tmm2"],
                        ["tileloadd tmm0, [{c0} + {ldc}*1]" "tileloadd tmm1, [{c0} + {ldc}*1 + 64]"
                         "tileloadd tmm2, [{c0} + {ldc}*1 + 128]"],
                        ["tileloadd tmm4, [{a0} + {lda}*1]"
                         "tileloadd tmm5, [{b} + {ldb}*1]"
                         "tdpbf16ps tmm0, tmm4, tmm5"
                         "tileloadd tmm6, [{b} + {ldb}*1 + 64]"
                         "tdpbf16ps tmm1, tmm4, tmm6"
                         "tileloadd tmm7, [{b} + {ldb}*1 + 128]"
                         "tdpbf16ps tmm2, tmm4, tmm7"],
                        ["tilestored [{c0} + {ldc}*1], tmm0" "tilestored [{c0} + {ldc}*1 + 64], tmm1"
                         "tilestored [{c0} + {ldc}*1 + 128], tmm2" "/* {c1} */"]),
                    (2, 1) => block!(o,
                        ["tilezero tmm0" "tilezero tmm2"],
                        ["tileloadd tmm0, [{c0} + {ldc}*1]" "tileloadd tmm2, [{c1} + {ldc}*1]"],
                        ["tileloadd tmm6, [{b} + {ldb}*1]"
                         "tileloadd tmm4, [{a0} + {lda}*1]"
                         "tdpbf16ps tmm0, tmm4, tmm6"
                         "tileloadd tmm5, [{a1} + {lda}*1]"
                         "tdpbf16ps tmm2, tmm5, tmm6"],
                        ["tilestored [{c0} + {ldc}*1], tmm0" "tilestored [{c1} + {ldc}*1], tmm2"]),
                    (2, 2) => block!(o,
                        ["tilezero tmm0" "tilezero tmm1" "tilezero tmm2" "tilezero tmm3"],
                        ["tileloadd tmm0, [{c0} + {ldc}*1]" "tileloadd tmm1, [{c0} + {ldc}*1 + 64]"
                         "tileloadd tmm2, [{c1} + {ldc}*1]" "tileloadd tmm3, [{c1} + {ldc}*1 + 64]"],
                        ["tileloadd tmm6, [{b} + {ldb}*1]"
                         "tileloadd tmm4, [{a0} + {lda}*1]"
                         "tdpbf16ps tmm0, tmm4, tmm6"
                         "tileloadd tmm5, [{a1} + {lda}*1]"
                         "tdpbf16ps tmm2, tmm5, tmm6"
                         "tileloadd tmm7, [{b} + {ldb}*1 + 64]"
                         "tdpbf16ps tmm1, tmm4, tmm7"
                         "tdpbf16ps tmm3, tmm5, tmm7"],
                        ["tilestored [{c0} + {ldc}*1], tmm0" "tilestored [{c0} + {ldc}*1 + 64], tmm1"
                         "tilestored [{c1} + {ldc}*1], tmm2" "tilestored [{c1} + {ldc}*1 + 64], tmm3"]),
                    (2, 3) => block!(o,
                        ["tilezero tmm0" "tilezero tmm1" "tilezero tmm2"
                         "tilezero tmm3" "tilezero tmm4" "tilezero tmm5"],
                        ["tileloadd tmm0, [{c0} + {ldc}*1]" "tileloadd tmm1, [{c0} + {ldc}*1 + 64]"
                         "tileloadd tmm2, [{c0} + {ldc}*1 + 128]"
                         "tileloadd tmm3, [{c1} + {ldc}*1]" "tileloadd tmm4, [{c1} + {ldc}*1 + 64]"
                         "tileloadd tmm5, [{c1} + {ldc}*1 + 128]"],
                        ["tileloadd tmm6, [{a0} + {lda}*1]"
                         "tileloadd tmm7, [{b} + {ldb}*1]"
                         "tdpbf16ps tmm0, tmm6, tmm7"
                         "tileloadd tmm7, [{b} + {ldb}*1 + 64]"
                         "tdpbf16ps tmm1, tmm6, tmm7"
                         "tileloadd tmm7, [{b} + {ldb}*1 + 128]"
                         "tdpbf16ps tmm2, tmm6, tmm7"
                         "tileloadd tmm6, [{a1} + {lda}*1]"
                         "tdpbf16ps tmm5, tmm6, tmm7"
                         "tileloadd tmm7, [{b} + {ldb}*1 + 64]"
                         "tdpbf16ps tmm4, tmm6, tmm7"
                         "tileloadd tmm7, [{b} + {ldb}*1]"
                         "tdpbf16ps tmm3, tmm6, tmm7"],
                        ["tilestored [{c0} + {ldc}*1], tmm0" "tilestored [{c0} + {ldc}*1 + 64], tmm1"
                         "tilestored [{c0} + {ldc}*1 + 128], tmm2"
                         "tilestored [{c1} + {ldc}*1], tmm3" "tilestored [{c1} + {ldc}*1 + 64], tmm4"
                         "tilestored [{c1} + {ldc}*1 + 128], tmm5"]),
                    _ => unreachable!("no such block of tiles"),
                }
            }
        }
    }
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(crate) use x86::Ready;

/// Nothing here: no value of [`Tiles`] is ever made.
#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
pub(crate) struct Ready(());

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
impl Tiles {
    pub(crate) fn get() -> Option<Self> {
        None
    }
    pub(crate) fn ready(self) -> Ready {
        unreachable!("no tiles")
    }
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
impl Ready {
    pub(crate) unsafe fn multiply(&self, _: usize, _: usize, _: &Operands) {
        unreachable!("no tiles")
    }
}
