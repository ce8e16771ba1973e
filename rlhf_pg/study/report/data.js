// The run that this page shows, as JSON in the page.
const data = JSON.parse($("data").textContent);
const control = data.kind === "control";
const unit = control ? "step" : "token", whole = control ? "episode" : "completion";
