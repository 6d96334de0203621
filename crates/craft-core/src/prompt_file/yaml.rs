//! YAML lists of prompts: sequences, mappings and scalars. Aliases are refused, so that no file unfolds to more
//! than it holds; what a tag says is not looked at.

use saphyr_parser::{Event, Parser, ScalarStyle, StrInput};

use super::shape::{self, Node};
use super::{Collector, PromptFileError};

/// Deepest nesting that is read.
const DEPTH: usize = 32;

pub(super) fn parse(text: &str, into: &mut Collector) -> Result<(), PromptFileError> {
    let mut reader = Reader { parser: Parser::new_from_str(text), line: 1 };
    loop {
        match reader.next()? {
            Some(Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd)
            | Some(Event::Nothing) => {}
            None | Some(Event::StreamEnd) => return Ok(()),
            Some(event) => {
                let node = reader.node(event, 0)?;
                if !matches!(node, Node::Null) {
                    shape::collect(node, "YAML", into)?;
                }
            }
        }
    }
}

struct Reader<'a> {
    parser: Parser<'a, StrInput<'a>>,
    line: usize,
}

impl<'a> Reader<'a> {
    fn wrong<T>(&self, message: impl Into<String>) -> Result<T, PromptFileError> {
        Err(PromptFileError::Yaml { line: self.line, message: message.into() })
    }

    fn next(&mut self) -> Result<Option<Event<'a>>, PromptFileError> {
        match self.parser.next_event() {
            None => Ok(None),
            Some(Ok((event, span))) => {
                self.line = span.start.line();
                Ok(Some(event))
            }
            Some(Err(error)) => {
                self.line = error.marker().line();
                let hint = "; put a text that holds `: `, `#` or quotes in quotes";
                self.wrong(format!("this is not valid YAML ({}){hint}", error.info()))
            }
        }
    }

    fn node(&mut self, event: Event<'a>, depth: usize) -> Result<Node, PromptFileError> {
        if depth > DEPTH {
            return self.wrong(format!("lists are nested more than {DEPTH} deep"));
        }
        match event {
            Event::Scalar(text, ScalarStyle::Plain, ..)
                if matches!(&*text, "" | "~" | "null" | "Null" | "NULL") =>
            {
                Ok(Node::Null)
            }
            Event::Scalar(text, ..) => Ok(Node::Text(text.into_owned())),
            Event::Alias(_) => self.wrong("aliases (`*name`) are not read: write the text out"),
            Event::SequenceStart(..) => {
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        Some(Event::SequenceEnd) => return Ok(Node::List(items)),
                        Some(event) => items.push(self.node(event, depth + 1)?),
                        None => return self.wrong("the file ends within a list"),
                    }
                }
            }
            Event::MappingStart(..) => {
                let mut pairs = Vec::new();
                loop {
                    let key = match self.next()? {
                        Some(Event::MappingEnd) => return Ok(Node::of_pairs(pairs)),
                        Some(Event::Scalar(key, ..)) => key.into_owned(),
                        Some(_) => return self.wrong("a key is not a text"),
                        None => return self.wrong("the file ends within a mapping"),
                    };
                    match self.next()? {
                        Some(event) => pairs.push((key, self.node(event, depth + 1)?)),
                        None => return self.wrong("the file ends within a mapping"),
                    }
                }
            }
            _ => self.wrong("this is not valid YAML"),
        }
    }
}
