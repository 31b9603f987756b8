#include "report_style.h"

#include "report_svg.h"

#include "report_svg.h"

/* Contrast of letters is at least 4.5 : 1 and of marks 3 : 1 in both colour schemes (WCAG 2.2, AA); the hues are told
 * apart by colour-blind readers, and wherever two meet they differ in shape, too. */

static const char light[] = "--page:#fff;--panel:#f6f7f9;--ink:#1a1d23;--muted:#58606e;--rule:#dcdfe5;--link:#0a58a8;"
                            "--key:#0b62a8;--key-soft:#0b62a82e;--value:#b85607;--value-soft:#b856072e;"
                            "--key-bar:#2f7fc4;--value-bar:#cf6d18;--main-bar:#1f8f83;--other-bar:#c2447d;"
                            "--main:#0d746a;--main-soft:#0d746a2e;--other:#a3265f;--other-soft:#a3265f2e;"
                            "--warn:#8a4b00;--warn-panel:#fff5e5;"
                            "--heat0:#f0f2f4;--heat1:#dcefeb;--heat2:#bde3dc;--heat3:#98d3c8;--heat4:#70c0b3;"
                            "--heat5:#4aac9f;--heat6:#17796f;--heat7:#0f655c;--heat8:#0a5049;--heat9:#063b36;"
                            "--on-low:#1a1d23;--on-middle:#1a1d23;--on-high:#fff;";

static const char dark[] = "--page:#14171c;--panel:#1c2027;--ink:#e6e9ee;--muted:#a3acb9;--rule:#343b46;--link:#8cc2f5;"
                           "--key:#6cb2ee;--key-soft:#6cb2ee33;--value:#f09a4a;--value-soft:#f09a4a33;"
                           "--key-bar:#3579b3;--value-bar:#ab631f;--main-bar:#20857a;--other-bar:#b54a80;"
                           "--main:#43c3b2;--main-soft:#43c3b233;--other:#f07fb0;--other-soft:#f07fb033;"
                           "--warn:#f4b860;--warn-panel:#2a2318;"
                           "--heat0:#22272f;--heat1:#16393a;--heat2:#17494a;--heat3:#185a57;--heat4:#1a6c66;"
                           "--heat5:#35a598;--heat6:#55b8aa;--heat7:#7bcabe;--heat8:#a6ddd3;--heat9:#d3f1ec;"
                           "--on-low:#e6e9ee;--on-middle:#101317;--on-high:#101317;";

static const char *const rules[] = {
    "*{box-sizing:border-box}", "html{-webkit-text-size-adjust:100%;text-size-adjust:100%}",
    "body{margin:0;background:var(--page);color:var(--ink);font:1rem/1.55 system-ui,-apple-system,'Segoe UI',Roboto,"
    "'Noto Sans','DejaVu Sans',sans-serif;font-variant-numeric:tabular-nums;overflow-wrap:break-word}",
    "main,header,footer{max-width:70rem;margin:0 auto;padding:0 clamp(1rem,4vw,2.5rem)}",
    "h1,h2,h3{line-height:1.2;text-wrap:balance}",
    "h1{font-size:clamp(1.5rem,1.1rem + 2vw,2.3rem);margin:0 0 .35rem;letter-spacing:-.015em}",
    "h2{font-size:1.35rem;margin:0 0 .5rem;letter-spacing:-.01em}", "h3{font-size:1rem;margin:1.4rem 0 .4rem}",
    "p,ul,ol,dl{margin:0 0 .8rem;max-width:44rem}", "ul,ol{padding-left:1.2rem}li{margin:.25rem 0}",
    "a{color:var(--link);text-underline-offset:.15em}",
    "a:focus-visible,summary:focus-visible,[tabindex]:focus-visible{outline:2px solid var(--link);outline-offset:2px;"
    "border-radius:2px}",
    "code,pre{font-family:ui-monospace,'SF Mono',Menlo,Consolas,'DejaVu Sans Mono',monospace;font-size:.875em}",
    "h1,h2,h3,h4,li,p,dd,summary,figcaption,tbody th{overflow-wrap:anywhere}",
    ".skip{position:absolute;left:-200vw}.skip:focus{left:1rem;top:.5rem;background:var(--page);padding:.3rem .6rem}",
    "header{padding-top:clamp(1.5rem,4vw,3rem)}", ".about{color:var(--muted);margin:0}",
    "section{padding:1.6rem 0 .6rem;border-top:1px solid var(--rule);margin-top:1.2rem}",
    ".answer{border:0;margin:0;padding:1.3rem 0 0}", ".answer>ol{list-style:none;padding:0;margin:0;max-width:52rem}",
    ".answer>ol>li{font-size:clamp(1.1rem,1rem + .6vw,1.35rem);line-height:1.45;margin:0 0 .8rem;padding-left:1rem;"
    "border-left:.25rem solid var(--main)}",
    ".contents{margin:1.2rem 0 0;padding:0;list-style:none;display:flex;flex-wrap:wrap;gap:.1rem 1.2rem;max-width:none;"
    "font-size:.92rem}",
    ".contents li{margin:0}.contents a{display:inline-block;padding:.2rem 0}", ".lead{color:var(--muted)}",
    ".small,.interval,figcaption,.note{font-size:.875rem;color:var(--muted)}",
    ".interval{white-space:nowrap}.none{color:var(--muted)}data{white-space:nowrap}",
    ".warn{background:var(--warn-panel);border-left:.25rem solid var(--warn);padding:.7rem 1rem;margin:1rem 0;"
    "max-width:52rem}.warn p:last-child{margin:0}",
    /* Tables: rows become cards where there is no room for columns. */
    "table{border-collapse:collapse;width:100%;margin:0 0 1.2rem;font-size:.94rem}",
    "caption{text-align:left;font-weight:600;padding:0 0 .5rem}", "caption .small{font-weight:400;display:block}",
    "th,td{text-align:left;vertical-align:top;padding:.55rem .9rem .55rem 0;border-bottom:1px solid var(--rule)}",
    "th:last-child,td:last-child{padding-right:0}",
    "thead th{font-weight:600;font-size:.85rem;line-height:1.3;color:var(--muted);vertical-align:bottom;"
    "border-bottom-color:var(--muted)}",
    "tbody th{font-weight:600}tbody th .small{display:block;font-weight:400;max-width:20rem}",
    ".n{text-align:right}.n .interval{display:block}", ".narrow{width:auto;min-width:min(100%,26rem)}",
    ".scroll{overflow-x:auto;max-width:100%;margin-block:0 1rem}.scroll tbody th{overflow-wrap:normal}.scroll "
    "caption{max-width:calc(100vw - 2rem)}",
    ".mark{min-width:9rem;width:31%}.cards thead th:first-child{width:22%}.mark.third{width:26%}",
    "svg{display:block;width:100%;height:auto;color:var(--ink)}svg text{font-family:inherit}",
    ".bar{height:.9rem;overflow:visible;margin:.28rem 0 .15rem}", ".bar *{vector-effect:non-scaling-stroke}",
    ".patterns{columns:2 24rem;column-gap:2.5rem;max-width:none}.patterns li{break-inside:avoid;margin:0 0 .5rem}",
    ".matrix{width:auto}.matrix td,.matrix th{padding-left:.7rem;padding-right:.7rem}"
    ".matrix tbody th,.matrix caption{padding-left:0}.matrix thead td{border-color:var(--muted)}",
    ".verdict{font-weight:600;white-space:nowrap}.verdict.no{font-weight:400;color:var(--muted)}",
    /* Pictures. */
    ".figures{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,19rem),1fr));gap:1.4rem 2rem;"
    "margin:1rem 0}",
    ".figures.wide{grid-template-columns:repeat(auto-fill,minmax(min(100%,26rem),1fr))}",
    "figure{margin:0;max-width:36rem}figure h3,figure h4{margin:0 0 .2rem}figcaption{margin-top:.2rem}",
    ".legend{display:flex;flex-wrap:wrap;gap:.2rem 1.1rem;list-style:none;padding:0;margin:.4rem 0;max-width:none;"
    "font-size:.875rem}.legend li{margin:0;display:flex;align-items:center;gap:.4rem}",
    ".legend svg{width:1.5rem;height:.8rem;flex:none}",
    ".scale "
    "span:first-child{white-space:nowrap}.scale{display:flex;align-items:center;gap:.5rem;font-size:.875rem;color:var(-"
    "-muted);margin:.3rem 0 0;"
    "max-width:none}.scale svg{width:10rem;height:.8rem}",
    /* Folded parts. */
    "details{border-top:1px solid var(--rule);max-width:none}section>details:last-child{margin-bottom:-.6rem}",
    "summary{cursor:pointer;padding:.55rem 0;font-weight:600}summary .small{font-weight:400}",
    "details>:not(summary){margin-left:1rem}details>table{width:calc(100% - 1rem)}",
    "pre{white-space:pre-wrap;overflow-wrap:anywhere;background:var(--panel);padding:.7rem .9rem;margin:.3rem 0 1rem;"
    "border-radius:4px;max-width:56rem;unicode-bidi:isolate;tab-size:4}",
    "pre.words{border-left:.25rem solid var(--warn)}", "h4{margin:.8rem 0 .2rem;font-size:.875rem;color:var(--muted)}",
    ".facts{display:grid;grid-template-columns:max-content 1fr;gap:.15rem 1.2rem;margin-block:0 1rem;font-size:.94rem}",
    ".facts dt{color:var(--muted)}.facts dd{margin:0;min-width:0}",
    "footer{padding-top:1.5rem;padding-bottom:3rem;color:var(--muted);font-size:.875rem}", NULL};

static const char narrow[] =
    "@media(max-width:44rem){"
    "table.cards,.cards tbody,.cards tr,.cards td,.cards tbody th{display:block;width:auto}"
    ".cards caption{display:block}.cards "
    "thead{display:block;position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}"
    ".cards tr{border-bottom:1px solid var(--rule);padding:.7rem 0}"
    ".cards td.mark{width:auto;min-width:0}.cards th,.cards td{border:0;padding:.12rem 0;text-align:left}"
    ".cards td[data-label]{display:grid;grid-template-columns:minmax(7rem,42%) 1fr;gap:0 .8rem}"
    ".cards td[data-label]::before{content:attr(data-label);color:var(--muted);font-size:.875rem}"
    ".cards td>.cell{min-width:0}.cards tbody th .small{max-width:none}.cards .n .interval{display:inline}"
    ".cards td:empty{display:none}.facts{grid-template-columns:1fr}.facts dd{margin:0 0 .4rem}}";

static const char paper[] =
    "@media print{html{font-size:9.5pt}main,header,footer{max-width:none;padding-left:0;padding-right:0}"
    ".contents,.skip{display:none}section{margin-top:.6rem;padding-top:.8rem}"
    "figure,tr,caption,.warn,.answer "
    "li{break-inside:avoid}h2,h3,h4,caption,thead,summary,.lead{break-after:avoid}thead{display:table-header-group}"
    "a{color:inherit;text-decoration:none}*{print-color-adjust:exact;-webkit-print-color-adjust:exact}"
    ".figures,.figures.wide{grid-template-columns:repeat(2,1fr)}.scroll{overflow:visible}@page{margin:15mm}}";

static void write_roles(FILE *out) {
    static const char *const names[] = {"ink",        "muted",     "rule",     "key",       "key-soft", "value",
                                        "value-soft", "page",      "main",     "main-soft", "other",    "other-soft",
                                        "key-bar",    "value-bar", "main-bar", "other-bar"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        fprintf(out, ".f-%s{fill:var(--%s)}.s-%s{stroke:var(--%s)}.c-%s{color:var(--%s)}\n", names[i], names[i],
                names[i], names[i], names[i], names[i]);
    fputs(".f-track{fill:var(--heat0)}\n", out);
    for (int step = 0; step < HEAT_STEPS; step++) {
        const char *letters = step < 5 ? "low" : step == 5 ? "middle" : "high";
        fprintf(out,
                ".f-heat%d{fill:var(--heat%d)}.f-on-heat%d{fill:var(--on-%s)}"
                ".h%d,.h%d .interval{background:var(--heat%d);color:var(--on-%s)}\n",
                step, step, step, letters, step, step, step, letters);
    }
}

void style_write(FILE *out) {
    fprintf(out, ":root{color-scheme:light dark;%s}\n@media screen and (prefers-color-scheme:dark){:root{%s}}\n", light,
            dark);
    for (const char *const *rule = rules; *rule != NULL; rule++)
        fprintf(out, "%s\n", *rule);
    write_roles(out);
    fprintf(out, "%s\n%s\n", narrow, paper);
}
