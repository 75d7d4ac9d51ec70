// Validates objects of the Prometheus operator: models.mjs PACKAGE, with a JSON array on standard input.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const models = await import(pathToFileURL(`${process.argv[2]}/monitoring.coreos.com/v1/index.js`));
for (const object of JSON.parse(readFileSync(0, "utf8"))) {
  new models[object.kind](object).validate();
}
