"""The style and the script of the HTML report, and the words that say how to read it."""

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1f2328; --muted: #59636e; --line: #dde1e6; --lit: #fff4d6;
  --positive: #0072b2; --neutral: #6a737d; --negative: #b84f00; }
body { margin: 0 auto; max-width: 1248px; padding: 0 16px 48px; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", Arial, sans-serif; }
h1 { margin: 24px 0 0; font-size: 1rem; color: var(--muted); overflow-wrap: anywhere; }
h2 { margin: 16px 0 4px; font-size: 1.5rem; overflow-wrap: anywhere; }
section + section { margin-top: 48px; }
h3 { margin: 28px 0 8px; font-size: 1rem; }
p, li { max-width: 76ch; overflow-wrap: anywhere; }
.positive { color: var(--positive); } .neutral { color: var(--neutral); } .negative { color: var(--negative); }
.verdict { margin: 0 0 12px; color: var(--muted); } .verdict strong { font-size: 1.25rem; }
a { color: var(--positive); }
.wide { overflow-x: auto; border: 1px solid var(--line); border-radius: 8px; }
.wide > svg { display: block; width: 100%; min-width: 860px; height: auto; }
table { width: 100%; border-collapse: collapse; font-size: .9rem; }
th, td { padding: 6px 12px; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
tr:last-child > * { border-bottom: 0; }
thead th { color: var(--muted); font-weight: 600; white-space: nowrap; }
.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.said { min-width: 16rem; overflow-wrap: anywhere; }
.spark { width: 56px; height: 10px; margin-left: 8px;
  background: linear-gradient(var(--muted), var(--muted)) center / 1px 100% no-repeat; }
.spark rect { fill: currentColor; }
tr.lit { background: var(--lit); } tr:focus-visible { outline: 2px solid var(--positive); outline-offset: -2px; }
svg:has(g.lit) g:not(.lit) { opacity: .3; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 16px; margin: 0; font-size: .9rem; }
dt { color: var(--muted); } dd { margin: 0; overflow-wrap: anywhere; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 320px), 1fr)); gap: 0 48px; }
@media (max-width: 640px) { .said { min-width: 12rem; } th, td { padding: 6px 8px; } }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14181d; --ink: #e6eaee; --muted: #9aa5b1; --line: #343b44; --lit: #3a3218;
    --positive: #4db2e8; --neutral: #9aa5b1; --negative: #ff9650; }
  rect.paper { fill: #14181d; } rect.absent { fill: #262c34; } line.grid { stroke: #343b44; }
  text.ink { fill: #e6eaee; } text.muted { fill: #9aa5b1; } line.muted { stroke: #6b7682; }
  text.positive { fill: #4db2e8; } text.negative { fill: #ff9650; } text.neutral { fill: #9aa5b1; }
  rect.positive:not([fill="none"]) { fill: #4db2e8; } rect.negative:not([fill="none"]) { fill: #ff9650; }
  rect.positive[fill="none"], line.positive { stroke: #4db2e8; }
  rect.negative[fill="none"], line.negative { stroke: #ff9650; }
}
@media print { a { color: var(--positive); }
.wide { overflow: visible; border: 0; } .wide > svg { min-width: 0; } }
"""

# A row of the table and its bars in the timeline carry the same data-segment; pointing at one lights both.
SCRIPT = """
for (const clip of document.querySelectorAll("section.clip")) {
  const light = (event, on) => {
    const part = event.target.closest("[data-segment]");
    if (!part) return;
    const alike = clip.querySelectorAll(`[data-segment="${part.dataset.segment}"]`);
    for (const element of alike) element.classList.toggle("lit", on);
  };
  for (const name of ["pointerover", "focusin"]) clip.addEventListener(name, (event) => light(event, true));
  for (const name of ["pointerout", "focusout"]) clip.addEventListener(name, (event) => light(event, false));
}
"""

GUIDE = """
<section><h2>How to read this</h2>
<ul>
<li>A score runs from -3, strongly negative, over 0 to +3, strongly positive: the scale of the CMU-MOSI labels. The
score of a clip is the mean of its utterances, weighted by their duration. Between -0.5 and +0.5 the label is
neutral.</li>
<li>Confidence is the probability, from 50 % to 100 %, that the sign of the score is right.</li>
<li>A contribution is the score with every input minus the score without this one. Inputs work together, so the
contributions need not add up to the score. Missing means that the input was not there or not asked for; degraded, that
less than half of it was usable.</li>
</ul>
<h3>What it is not</h3>
<p>The score is a statistical estimate of the sentiment that is expressed in an English monologue to a camera. It does
not measure what a person feels, believes or intends, and it can be wrong for any single clip, more often for speakers,
accents, languages and recordings unlike its training data. Do not use it to decide about people: not in hiring,
credit, insurance, education, health care or law enforcement. Score people only with their consent.</p>
</section>
"""
