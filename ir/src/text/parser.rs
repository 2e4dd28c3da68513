//! Text to graph.

use super::lexer::{Token, tokens};
use crate::attr::AttrText;
use crate::graph::{Graph, NodeId};
use crate::op::Op;
use crate::types::Type;

/// What is wrong with a text, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct ParseError {
    /// Line number, from 1.
    pub line: usize,
    /// What was expected or refused.
    pub message: String,
}

/// Lists nested deeper than any op needs are refused, so that no text can exhaust the stack.
const MAX_DEPTH: usize = 8;

/// The graph that `text` describes.
pub fn parse(text: &str) -> Result<Graph, ParseError> {
    let tokens = tokens(text).map_err(|(line, message)| ParseError { line, message })?;
    Parser { tokens, next: 0 }.graph()
}

struct Parser {
    tokens: Vec<(Token, usize)>,
    next: usize,
}

impl Parser {
    fn line(&self) -> usize {
        let at = self.next.min(self.tokens.len().saturating_sub(1));
        self.tokens.get(at).map_or(1, |(_, line)| *line)
    }

    /// Something is missing: the line that was left unfinished, not that of whatever comes next.
    fn expected<X>(&self, what: &str) -> Result<X, ParseError> {
        let before = self.next.checked_sub(1).and_then(|at| self.tokens.get(at));
        Err(ParseError {
            line: before.map_or(self.line(), |(_, line)| *line),
            message: format!("expected {what}"),
        })
    }

    fn error<X>(&self, message: impl Into<String>) -> Result<X, ParseError> {
        Err(ParseError {
            line: self.line(),
            message: message.into(),
        })
    }

    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.next).map(|(t, _)| t)
    }

    fn eat(&mut self, mark: char) -> bool {
        let found = self.peek() == Some(&Token::Mark(mark));
        self.next += usize::from(found);
        found
    }

    fn expect(&mut self, mark: char) -> Result<(), ParseError> {
        match self.eat(mark) {
            true => Ok(()),
            false => self.expected(&format!("`{mark}`")),
        }
    }

    fn word(&mut self, what: &str) -> Result<String, ParseError> {
        match self.peek().cloned() {
            Some(Token::Word(w)) => {
                self.next += 1;
                Ok(w)
            }
            _ => self.expected(what),
        }
    }

    fn string(&mut self, what: &str) -> Result<String, ParseError> {
        match self.peek().cloned() {
            Some(Token::Str(s)) => {
                self.next += 1;
                Ok(s)
            }
            _ => self.expected(&format!("{what} in quotes")),
        }
    }

    fn name(&mut self) -> Result<String, ParseError> {
        match self.peek().cloned() {
            Some(Token::Name(n)) => {
                self.next += 1;
                Ok(n)
            }
            _ => self.expected("a %name"),
        }
    }

    fn graph(mut self) -> Result<Graph, ParseError> {
        if self.word("`graph`")? != "graph" {
            self.next -= 1;
            return self.error("expected `graph`");
        }
        let mut graph = Graph::new(&self.string("the graph's name")?);
        self.expect('{')?;
        while !self.eat('}') {
            match self.peek() {
                Some(Token::Name(_)) => self.node(&mut graph)?,
                Some(Token::Word(w)) if w == "output" => self.output(&mut graph)?,
                _ => return self.error("expected a node, an output or `}`"),
            }
        }
        match self.peek() {
            None => Ok(graph),
            Some(_) => self.error("unexpected text after the graph"),
        }
    }

    fn output(&mut self, graph: &mut Graph) -> Result<(), ParseError> {
        self.next += 1;
        let name = self.string("the output's name")?;
        let id = self.operand(graph)?;
        graph.set_output(&name, id);
        Ok(())
    }

    fn operand(&mut self, graph: &Graph) -> Result<NodeId, ParseError> {
        let name = self.name()?;
        match graph.find(&name) {
            Some(id) => Ok(id),
            None => {
                self.next -= 1;
                self.error(format!("%{name} is not defined above"))
            }
        }
    }

    fn node(&mut self, graph: &mut Graph) -> Result<(), ParseError> {
        let line = self.line();
        let name = self.name()?;
        self.expect('=')?;
        let op_name = self.word("the name of an op")?;
        let mut operands = Vec::new();
        if self.eat('(') {
            while !self.eat(')') {
                operands.push(self.operand(graph)?);
                if !self.eat(',') {
                    self.expect(')')?;
                    break;
                }
            }
        }
        let attrs = self.attrs()?;
        self.expect(':')?;
        let ty = self.ty()?;
        let at = |message: String| ParseError { line, message };
        let op = Op::from_text(&op_name, &attrs).map_err(|e| at(format!("{op_name}: {e}")))?;
        let id = graph
            .add(&name, op, &operands)
            .map_err(|e| at(e.to_string()))?;
        if *graph.ty(id) != ty {
            let found = graph.ty(id);
            return Err(at(format!(
                "%{name} is written as {ty} but computes {found}"
            )));
        }
        Ok(())
    }

    fn attrs(&mut self) -> Result<Vec<(String, AttrText)>, ParseError> {
        let mut attrs = Vec::new();
        if !self.eat('{') {
            return Ok(attrs);
        }
        while !self.eat('}') {
            let name = self.word("an attribute")?;
            self.expect('=')?;
            attrs.push((name, self.value(0)?));
            if !self.eat(',') {
                self.expect('}')?;
                break;
            }
        }
        Ok(attrs)
    }

    fn value(&mut self, depth: usize) -> Result<AttrText, ParseError> {
        if depth > MAX_DEPTH {
            return self.error("lists are nested too deep");
        }
        match self.peek().cloned() {
            Some(Token::Str(s)) => {
                self.next += 1;
                Ok(AttrText::Str(s))
            }
            Some(Token::Mark('[')) => {
                self.next += 1;
                let mut items = Vec::new();
                while !self.eat(']') {
                    items.push(self.value(depth + 1)?);
                    if !self.eat(',') {
                        self.expect(']')?;
                        break;
                    }
                }
                Ok(AttrText::List(items))
            }
            Some(Token::Word(w)) => match self.tokens.get(self.next + 1) {
                Some((Token::Mark('['), _)) => Ok(AttrText::Type(self.ty()?)),
                _ => {
                    self.next += 1;
                    Ok(AttrText::Word(w))
                }
            },
            _ => self.expected("a value"),
        }
    }

    fn ty(&mut self) -> Result<Type, ParseError> {
        let mut text = self.word("a type")?;
        self.expect('[')?;
        text.push('[');
        while !self.eat(']') {
            text.push_str(&self.word("a dimension")?);
            if !self.eat(',') {
                self.expect(']')?;
                break;
            }
            text.push(',');
        }
        text.push(']');
        text.parse().or_else(|e: String| {
            self.next -= 1;
            self.error(e)
        })
    }
}
