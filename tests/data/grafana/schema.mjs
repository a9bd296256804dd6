// Turns the types of Grafana's dashboards (npm package @grafana/schema) into dashboard.schema.json; see README.md.
import fs from 'node:fs';

import { createGenerator } from 'ts-json-schema-generator';

const types = './node_modules/@grafana/schema/dist/types';
fs.writeFileSync('tsconfig.json', JSON.stringify({
  compilerOptions: {
    module: 'esnext', moduleResolution: 'bundler', strict: true, skipLibCheck: true, target: 'es2022',
    lib: ['es2022', 'dom'], types: [], baseUrl: '.',
    paths: { '@grafana/schema': [`${types}/index.d.ts`], 'raw/*': [`${types}/raw/*`] },
  },
  include: ['type_*.ts'],
}));

/** The schema of one type. */
const schema = (name, module, type) => {
  const [path, root] = [`type_${name}.ts`, `Root_${name}`];
  fs.writeFileSync(path, `import type * as M from 'raw/${module}';\nexport type ${root} = M.${type};\n`);
  return createGenerator({
    path, type: root, tsconfig: 'tsconfig.json', skipTypeCheck: true, additionalProperties: false, jsDoc: 'none',
    expose: 'all', topRef: true,
  }).createSchema(root);
};

const version = JSON.parse(fs.readFileSync('node_modules/@grafana/schema/package.json')).version;
const out = {
  $comment: `JSON schema of Grafana's dashboards and panels, made from the types in npm package @grafana/schema ${version}, `
    + `with the ids of units from @grafana/data ${version}. Copyright Grafana Labs, Apache License 2.0; see README.md.`,
  dashboard: schema('dashboard', 'dashboard/x/types.gen', 'Dashboard'),
  options: {},
  custom: {},
};
for (const panel of ['timeseries', 'stat', 'gauge', 'bargauge', 'table', 'heatmap', 'statetimeline', 'text', 'barchart']) {
  const module = `composable/${panel}/panelcfg/x/types.gen`;
  out.options[panel] = schema(`options_${panel}`, module, 'Options');
  const declared = fs.readFileSync(`${types}/raw/${module}.d.ts`, 'utf8').includes('interface FieldConfig');
  if (declared) out.custom[panel] = schema(`custom_${panel}`, module, 'FieldConfig');
}
// The raw type describes annotations of Grafana's own data source; those of others hold a query in `target` and more
// fields beside it (veneer/dashboard.types.d.ts: `target?: TQuery`).
const annotation = out.dashboard.definitions.AnnotationQuery;
annotation.properties.target = { type: 'object', required: ['refId'] };
annotation.additionalProperties = true;
delete out.dashboard.definitions.AnnotationTarget;

const formats = fs.readFileSync('node_modules/@grafana/data/dist/esm/valueFormats/categories.mjs', 'utf8');
out.units = [...formats.matchAll(/id: "([ -~]+?)"/g)].map((match) => match[1]).filter((id) => !id.includes('\\')).sort();
fs.writeFileSync('dashboard.schema.json', JSON.stringify(out) + '\n');
