// Shows /openapi.json as a page: operations by tag, their parameters, bodies and answers, and a form to
// try each. Everything from the document is set as text, never as HTML.

const METHODS = ["get", "post", "put", "patch", "delete"];

/** An element with attributes and children; strings become text. */
function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== false) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter((child) => child !== undefined && child !== null && child !== ""));
  return node;
}

/** Words with `code` in them. */
function prose(text) {
  return (text ?? "").split("`").map((part, i) => (i % 2 ? el("code", {}, part) : part));
}

const about = document.getElementById("about");
const spec = await fetch("/openapi.json").then((answer) => answer.json()).catch((error) => {
  about.textContent = `The document could not be read (${error}). Is Windlass running? Load the page again.`;
  throw error;
});

function resolve(schema) {
  const name = schema?.$ref?.split("/").pop();
  return name ? { ...spec.components.schemas[name], title: name } : schema ?? {};
}

/** A type in words. */
function typeOf(raw) {
  const schema = resolve(raw);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  for (const many of ["oneOf", "anyOf", "allOf"]) {
    if (schema[many]) return schema[many].map(typeOf).join(many === "allOf" ? " & " : " | ");
  }
  const type = Array.isArray(schema.type) ? schema.type.join(" | ") : schema.type;
  if (type === "array" || schema.items) return `${typeOf(schema.items)}[]`;
  return schema.title ?? (type ?? "any") + (schema.format ? ` (${schema.format})` : "");
}

/** What a schema allows beyond its type. */
function bounds(raw) {
  const schema = resolve(raw);
  const words = { minimum: "≥", maximum: "≤", minLength: "min. length", maxLength: "max. length", minItems: "min. items", maxItems: "max. items", pattern: "pattern", default: "default" };
  return Object.entries(words)
    .filter(([key]) => schema[key] !== undefined && schema[key] !== null)
    .map(([key, word]) => `${word} ${typeof schema[key] === "object" ? JSON.stringify(schema[key]) : schema[key]}`)
    .join(", ");
}

/** The fields of an object schema, its parts merged. */
function fields(raw, depth = 0) {
  const schema = resolve(raw);
  const parts = [schema, ...(schema.allOf ?? []), ...(depth < 3 ? schema.oneOf ?? schema.anyOf ?? [] : [])];
  const found = new Map();
  for (const part of parts) {
    const resolved = resolve(part);
    for (const [name, field] of Object.entries(resolved.properties ?? {})) {
      found.set(name, { field, required: (resolved.required ?? []).includes(name) });
    }
  }
  return found;
}

/** A value of the right shape to start from. */
function example(raw, depth = 0) {
  const schema = resolve(raw);
  if (schema.example !== undefined) return schema.example;
  if (schema.examples?.length) return schema.examples[0];
  if (schema.default !== undefined && schema.default !== null) return schema.default;
  if (schema.enum) return schema.enum[0];
  if (schema.oneOf || schema.anyOf) return example((schema.oneOf ?? schema.anyOf)[0], depth);
  const type = Array.isArray(schema.type) ? schema.type.find((t) => t !== "null") : schema.type;
  if (schema.properties && depth < 4) {
    const needed = [...fields(schema)].filter(([, { required }]) => required);
    return Object.fromEntries(needed.map(([name, { field }]) => [name, example(field, depth + 1)]));
  }
  if (type === "array") return depth < 4 ? [example(schema.items, depth + 1)] : [];
  return { string: "text", integer: 1, number: 1, boolean: true, object: {} }[type] ?? null;
}

function table(head, rows) {
  if (!rows.length) return undefined;
  return el("table", {}, el("tr", {}, head.map((h) => el("th", {}, h))), rows.map((row) => el("tr", {}, row.map((cell) => el("td", {}, typeof cell === "string" ? prose(cell) : cell ?? "")))));
}

/** What a field is for: its own words, or those of the one type that it has beside `null`. */
function describe(raw) {
  const own = raw.description ?? (raw.oneOf ?? raw.anyOf)?.find((part) => part.description)?.description;
  return own ?? resolve(raw).description;
}

function explained(words, schema) {
  const limits = bounds(schema);
  return el("span", {}, prose(words), limits && el("span", { class: "bounds" }, limits));
}

/** The fields with those of objects inside of them, as rows of a table. */
function fieldRows(schema, prefix, depth) {
  return [...fields(schema)].flatMap(([name, { field, required }]) => {
    const inner = (field.oneOf ?? field.anyOf ?? [field]).find((part) => resolve(part).properties) ?? {};
    const row = [
      el("code", { class: required ? "required" : undefined }, prefix + name),
      el("code", {}, typeOf(field)),
      explained(describe(field), field),
    ];
    return [row, ...(depth > 0 ? fieldRows(inner, `${prefix}${name}.`, depth - 1) : [])];
  });
}

function fieldTable(schema) {
  return table(["field", "type", ""], fieldRows(schema, "", 1));
}

function jsonContent(content) {
  const type = Object.keys(content ?? {}).find((name) => name.includes("json"));
  return type ? { type, schema: content[type].schema, example: content[type].example } : undefined;
}

/** The answer as it comes: streams have no end. Of long ones the latest part is kept. */
async function show(response, place) {
  const head = `${response.status} ${response.statusText}\n\n`;
  const reader = response.body?.getReader();
  const decoder = new TextDecoder();
  let raw = "";
  for (let part = await reader?.read(); part && !part.done; part = await reader.read()) {
    raw += decoder.decode(part.value, { stream: true });
    if (raw.length > 1_000_000) raw = raw.slice(-500_000);
    place.textContent = head + raw;
  }
  let shown = raw;
  try { shown = JSON.stringify(JSON.parse(raw), null, 2); } catch { /* not JSON: as it came */ }
  place.textContent = head + shown;
}

/** A form that sends the call and shows the answer. */
function tryIt(method, path, operation) {
  const parameters = operation.parameters ?? [];
  const inputs = parameters.map((p) => [p, el("input", { placeholder: p.name, "aria-label": p.name })]);
  const body = jsonContent(operation.requestBody?.content);
  const text = body && el("textarea", { spellcheck: "false", "aria-label": "request body" }, JSON.stringify(body.example ?? example(body.schema), null, 2));
  const answer = el("pre", { hidden: "" });
  const button = el("button", { type: "button" }, "Send");
  let under; // The call under way.
  const send = async () => {
    let target = path;
    const query = new URLSearchParams();
    const headers = {};
    for (const [p, input] of inputs) {
      if (p.in === "path") target = target.replace(`{${p.name}}`, encodeURIComponent(input.value));
      else if (input.value && p.in === "query") query.append(p.name, input.value);
      else if (input.value && p.in === "header") headers[p.name] = input.value;
    }
    const key = document.getElementById("key").value;
    if (key) headers.Authorization = `Bearer ${key}`;
    if (text?.value.trim()) headers["Content-Type"] = body.type;
    answer.hidden = false;
    answer.textContent = "…";
    under = new AbortController();
    button.textContent = "Stop";
    try {
      const suffix = query.size ? `?${query}` : "";
      const sent = body && text.value.trim() ? text.value : undefined;
      const response = await fetch(target + suffix, { method: method.toUpperCase(), headers, body: sent, signal: under.signal });
      answer.className = response.ok ? "" : "failed";
      await show(response, answer);
    } catch (error) {
      if (error.name === "AbortError") answer.append("\n(stopped)");
      else {
        answer.textContent = String(error);
        answer.className = "failed";
      }
    }
    under = undefined;
    button.textContent = "Send";
  };
  button.addEventListener("click", () => (under ? under.abort() : send()));
  const rows = inputs.map(([p, input]) => el("label", {}, el("code", { class: p.required ? "required" : undefined }, p.name), input));
  return el("div", { class: "try" }, rows, text, button, answer);
}

function operationView(method, path, operation) {
  const parameters = (operation.parameters ?? []).map((p) => [
    el("code", { class: p.required ? "required" : undefined }, p.name), p.in, el("code", {}, typeOf(p.schema)),
    explained(p.description, p.schema),
  ]);
  const body = jsonContent(operation.requestBody?.content);
  const answers = Object.entries(operation.responses ?? {}).map(([status, response]) => [
    el("code", {}, status), response.description ?? "", el("code", {}, typeOf(jsonContent(response.content)?.schema ?? { title: "" })),
  ]);
  const good = Object.entries(operation.responses ?? {}).find(([status]) => status.startsWith("2"));
  const goodBody = jsonContent(good?.[1].content);
  const inside = el("div", { class: "body" });
  const view = el("details", { id: operation.operationId }, el("summary", {},
    el("span", { class: `method ${method}` }, method.toUpperCase()), el("span", { class: "path" }, path),
    el("span", { class: "summary" }, operation.summary ?? "")), inside);
  // Built when it is first opened: a page of all of them at once is slow to lay out.
  view.addEventListener("toggle", () => {
    inside.append(
      ...(operation.description ?? "").split("\n\n").map((paragraph) => el("p", {}, prose(paragraph))),
      ...[
        parameters.length && el("h3", {}, "Parameters"), table(["name", "in", "type", ""], parameters),
        body && el("h3", {}, "Body"), body && fieldTable(body.schema),
        el("h3", {}, "Answers"), table(["status", "", "body"], answers),
        goodBody && fields(goodBody.schema).size && el("h3", {}, `Body of ${good[0]}`), goodBody && fieldTable(goodBody.schema),
        tryIt(method, path, operation),
      ].filter(Boolean));
  }, { once: true });
  view.dataset.words = `${method} ${path} ${operation.summary ?? ""} ${operation.description ?? ""} ${operation.operationId ?? ""}`.toLowerCase();
  return view;
}

const groups = new Map((spec.tags ?? []).map((tag) => [tag.name, []]));
for (const [path, item] of Object.entries(spec.paths)) {
  for (const method of METHODS.filter((m) => item[m])) {
    const tag = item[method].tags?.[0] ?? "other";
    if (!groups.has(tag)) groups.set(tag, []);
    groups.get(tag).push(operationView(method, path, item[method]));
  }
}
const main = document.getElementById("operations");
for (const [tag, views] of groups) {
  const words = spec.tags?.find((known) => known.name === tag)?.description;
  if (views.length) main.append(el("section", {}, el("h2", {}, tag), words && el("p", { class: "summary" }, words), views));
}
/** `/docs#submit_job` shows that operation. */
function openNamed() {
  const view = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (view instanceof HTMLDetailsElement) {
    view.open = true;
    view.scrollIntoView();
  }
}
addEventListener("hashchange", openNamed);
openNamed();
about.replaceChildren(
  `${spec.info.title} ${spec.info.version}, OpenAPI ${spec.openapi}: `, el("a", { href: "/openapi.json" }, "/openapi.json"));
document.getElementById("find").addEventListener("input", (event) => {
  const words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const view of main.querySelectorAll("details")) {
    view.hidden = !words.every((word) => view.dataset.words.includes(word));
  }
  for (const section of main.children) {
    section.hidden = ![...section.querySelectorAll("details")].some((view) => !view.hidden);
  }
});
