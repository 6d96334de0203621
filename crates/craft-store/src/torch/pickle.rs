//! A pickle interpreter that can only build data: numbers, texts, lists, dicts, tensor views, and records
//! of whatever else was made.
//!
//! A pickle is a program for a stack machine whose `GLOBAL` and `REDUCE` operations call any Python
//! function. Here a global is a name (see [`super::global`]), and calling one describes a tensor or keeps
//! the name with its arguments; what is set on such a record is kept with them. Nothing is executed.
//! Source: operations of CPython's `pickletools`, protocols 2 to 5.

use std::collections::HashMap;
use std::rc::Rc;

use safetensors::Dtype;

use super::global::{Global, known};
use super::input::Input;
use super::view::View;

pub(super) type Result<T> = std::result::Result<T, String>;

/// Most values of a pickle; a large checkpoint has a few hundred thousand.
const MAX_VALUES: usize = 2_000_000;

/// Place of a value in the arena.
pub(super) type Id = usize;

/// A value.
#[derive(Debug, Clone)]
pub(super) enum Value {
    None,
    Int(i64),
    Text(Rc<str>),
    /// Lists and tuples.
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Tensor(Rc<View>),
    /// A number with a fraction, or bytes.
    Other,
    Object(Box<Object>),
    Global(Global),
    Storage(Rc<str>, Dtype, u64),
}

/// An object of a class that means nothing here.
#[derive(Debug, Clone)]
pub(super) struct Object {
    /// Module and name of the class, or of the function that made it.
    pub(super) class: Rc<str>,
    /// The list of arguments of the call.
    pub(super) arguments: Id,
    /// What was set on it, mostly the dict of its attributes.
    pub(super) state: Option<Id>,
    /// Items, if it is some kind of dict. Those of lists are dropped.
    pub(super) items: Vec<(Id, Id)>,
}

impl Object {
    pub(super) fn new(class: &Rc<str>, arguments: Id) -> Self {
        Self { class: class.clone(), arguments, state: None, items: Vec::new() }
    }
}

/// The values of a pickle.
#[derive(Debug, Default)]
pub(super) struct Pickle {
    values: Vec<Value>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: HashMap<u64, Id>,
}

impl Pickle {
    /// Runs a pickle. Returns the values and the place of the result.
    pub(super) fn run(bytes: &[u8]) -> Result<(Self, Id)> {
        let mut this = Self::default();
        let mut input = Input(bytes);
        loop {
            let op = input.take(1)?[0];
            if op == b'.' {
                let top = this.pop()?;
                return Ok((this, top));
            }
            this.step(op, &mut input)?;
        }
    }

    /// A value.
    pub(super) fn get(&self, id: Id) -> &Value {
        &self.values[id]
    }

    fn push(&mut self, value: Value) -> Result<()> {
        if self.values.len() >= MAX_VALUES {
            return Err(format!("its pickle makes more than {MAX_VALUES} values"));
        }
        self.stack.push(self.values.len());
        self.values.push(value);
        Ok(())
    }

    fn pop(&mut self) -> Result<Id> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err("its pickle takes from an empty stack: the file is damaged".into());
        }
        self.stack.pop().ok_or_else(|| "its pickle takes from an empty stack".into())
    }

    fn since_mark(&mut self) -> Result<Vec<Id>> {
        let mark = self.marks.pop().ok_or("its pickle lacks a mark: the file is damaged")?;
        Ok(self.stack.split_off(mark))
    }

    fn tuple(&mut self, count: usize) -> Result<()> {
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(self.pop()?);
        }
        items.reverse();
        self.push(Value::List(items))
    }

    fn top(&self) -> Result<Id> {
        self.stack.last().copied().ok_or_else(|| "its pickle uses an empty stack".into())
    }

    fn append(&mut self, items: Vec<Id>) -> Result<()> {
        let top = self.top()?;
        match &mut self.values[top] {
            Value::List(list) => list.extend(items),
            Value::Object(_) => {}
            _ => return Err("its pickle appends to what is no list".into()),
        }
        Ok(())
    }

    fn set(&mut self, items: Vec<Id>) -> Result<()> {
        let top = self.top()?;
        let (pairs, rest) = items.as_chunks::<2>();
        let dict = match &mut self.values[top] {
            Value::Dict(dict) => dict,
            Value::Object(object) => &mut object.items,
            _ => return Err("its pickle sets an item of what is no dict".into()),
        };
        if !rest.is_empty() {
            return Err("its pickle sets an item without a value".into());
        }
        dict.extend(pairs.iter().map(|p| (p[0], p[1])));
        Ok(())
    }

    /// One operation.
    fn step(&mut self, op: u8, input: &mut Input<'_>) -> Result<()> {
        match op {
            0x80 => {
                let version = input.number(1)?;
                if !(2..=5).contains(&version) {
                    return Err(format!("its pickle has protocol {version}: expected 2 to 5"));
                }
            }
            0x95 => drop(input.number(8)?),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.since_mark()?),
            _ => return self.container(op, input),
        }
        Ok(())
    }

    /// Empty and filled lists and dicts, and what is added to them.
    fn container(&mut self, op: u8, input: &mut Input<'_>) -> Result<()> {
        match op {
            b'}' => self.push(Value::Dict(Vec::new()))?,
            // Sets are lists here.
            b']' | b')' | 0x8f => self.push(Value::List(Vec::new()))?,
            b'(' => {
                if self.marks.len() >= MAX_VALUES {
                    return Err("its pickle sets too many marks".into());
                }
                self.marks.push(self.stack.len());
            }
            b't' | b'l' | 0x91 => {
                let items = self.since_mark()?;
                self.push(Value::List(items))?;
            }
            0x85..=0x87 => self.tuple(usize::from(op - 0x84))?,
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])?;
            }
            b'e' | 0x90 => {
                let items = self.since_mark()?;
                self.append(items)?;
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set(vec![key, value])?;
            }
            b'u' => {
                let items = self.since_mark()?;
                self.set(items)?;
            }
            _ => return self.scalar(op, input),
        }
        Ok(())
    }

    /// Numbers, texts and bytes.
    fn scalar(&mut self, op: u8, input: &mut Input<'_>) -> Result<()> {
        match op {
            b'N' => self.push(Value::None)?,
            0x88 | 0x89 => self.push(Value::Int(i64::from(op == 0x88)))?,
            b'J' => {
                let value = input.number(4)? as u32;
                self.push(Value::Int(i64::from(value.cast_signed())))?;
            }
            b'K' => self.integer(input, 1)?,
            b'M' => self.integer(input, 2)?,
            0x8a | 0x8b => {
                let bytes = input.number(if op == 0x8a { 1 } else { 4 })?;
                if bytes > 8 {
                    input.take(bytes)?;
                    return self.push(Value::Other);
                }
                let value = input.number(bytes)?.cast_signed();
                let unused = 64 - 8 * bytes as u32;
                self.push(Value::Int(if bytes == 0 { 0 } else { value << unused >> unused }))?;
            }
            b'G' => {
                input.take(8)?;
                self.push(Value::Other)?;
            }
            b'X' | b'T' => self.string(op, input, 4)?,
            0x8c | b'U' => self.string(op, input, 1)?,
            0x8d => self.string(op, input, 8)?,
            b'B' | b'C' | 0x8e | 0x96 => {
                let size = match op {
                    b'C' => 1,
                    b'B' => 4,
                    _ => 8,
                };
                let bytes = input.number(size)?;
                input.take(bytes)?;
                self.push(Value::Other)?;
            }
            _ => return self.memory(op, input),
        }
        Ok(())
    }

    /// What is kept for later, and taken from there.
    fn memory(&mut self, op: u8, input: &mut Input<'_>) -> Result<()> {
        match op {
            b'q' | b'r' => {
                let place = input.number(if op == b'q' { 1 } else { 4 })?;
                self.remember(place)?;
            }
            0x94 => self.remember(self.memo.len() as u64)?,
            b'h' | b'j' => {
                let place = input.number(if op == b'h' { 1 } else { 4 })?;
                let id = self.memo.get(&place).ok_or("its pickle recalls what it never kept")?;
                if self.stack.len() >= MAX_VALUES {
                    return Err(format!("its pickle stacks more than {MAX_VALUES} values"));
                }
                self.stack.push(*id);
            }
            _ => return self.object(op, input),
        }
        Ok(())
    }

    /// Globals, calls, attributes and storages.
    fn object(&mut self, op: u8, input: &mut Input<'_>) -> Result<()> {
        match op {
            b'c' => {
                let (module, name) = (input.line()?, input.line()?);
                self.push(Value::Global(known(module, name)?))?;
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (Value::Text(module), Value::Text(name)) = (self.get(module), self.get(name))
                else {
                    return Err("its pickle asks for a global without a name".into());
                };
                let global = known(module, name)?;
                self.push(Value::Global(global))?;
            }
            b'R' | 0x81 => {
                let (arguments, callee) = (self.pop()?, self.pop()?);
                let value = self.call(callee, arguments)?;
                self.push(value)?;
            }
            // With arguments by name.
            0x92 => {
                let (_, arguments, callee) = (self.pop()?, self.pop()?, self.pop()?);
                let value = self.call(callee, arguments)?;
                self.push(value)?;
            }
            b'b' => {
                let state = self.pop()?;
                let top = self.top()?;
                match &mut self.values[top] {
                    Value::Object(object) => object.state = Some(state),
                    // Attributes of an OrderedDict (`_metadata` of a state_dict) carry no tensors.
                    Value::Dict(_) => {}
                    _ => return Err("its pickle sets attributes of what is no object".into()),
                }
            }
            b'Q' => {
                let id = self.pop()?;
                let value = self.storage(id)?;
                self.push(value)?;
            }
            other => {
                return Err(format!(
                    "its pickle has operation 0x{other:02x}, which torch.save does not use; the file is damaged or of another program"
                ));
            }
        }
        Ok(())
    }

    fn integer(&mut self, input: &mut Input<'_>, bytes: u64) -> Result<()> {
        let value = input.number(bytes)?.cast_signed();
        self.push(Value::Int(value))
    }

    fn string(&mut self, op: u8, input: &mut Input<'_>, bytes: u64) -> Result<()> {
        let size = input.number(bytes)?;
        // `U` and `T` are byte strings of Python 2: text if they are UTF-8.
        let value = if matches!(op, b'U' | b'T') {
            let text = std::str::from_utf8(input.take(size)?).ok();
            text.map_or(Value::Other, |text| Value::Text(text.into()))
        } else {
            Value::Text(input.text(size)?.into())
        };
        self.push(value)
    }

    fn remember(&mut self, place: u64) -> Result<()> {
        let top = self.top()?;
        if self.memo.len() >= MAX_VALUES {
            return Err(format!("its pickle keeps more than {MAX_VALUES} values"));
        }
        self.memo.insert(place, top);
        Ok(())
    }
}
