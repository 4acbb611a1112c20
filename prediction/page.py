"""summary.csv and index.html: all images of a folder of predictions."""
import csv
import os
import urllib.parse
from html import escape

from histology.listing import SOFTWARE
from prediction import summary, writers

COLUMNS = ('image', 'nuclei', 'mm2', 'nuclei_per_mm2', 'median_area_px2',
           'median_area_um2', 'mean_haematoxylin_od', 'warnings', 'seconds',
           'error')
MARK = f'<meta name="generator" content="{SOFTWARE}">'
FILES = 'summary.csv', 'index.html'
STYLE = '''
body { margin: 2em auto; max-width: 80em; padding: 0 1em;
  font: 15px/1.4 system-ui, sans-serif; color: #222; background: #fff }
h1 { font-size: 1.6em; margin: 0 }
dl { display: grid; gap: .1em 1em;
  grid-template-columns: max-content minmax(0, 1fr) }
dt { color: #666 }
dd { margin: 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums }
main { display: grid; gap: 1em;
  grid-template-columns: repeat(auto-fill, minmax(15em, 1fr)) }
article { border: 1px solid #ddd; border-radius: 6px; overflow: hidden;
  padding-bottom: .6em; font-size: .9em }
article:target { outline: 3px solid #06c }
article > * { margin: .5rem .8rem }
article > a { margin: 0 } article p { overflow-wrap: anywhere }
h2 { font-size: 1.1em; overflow-wrap: anywhere }
img { display: block; width: 100%; aspect-ratio: 1; object-fit: contain;
  background: #eee }
.warning { color: #8a5a00 } .error { color: #b00020 }
ul { padding-left: 1.2em }
'''


def write(folder, run, records):
    """Write both files.

    Args:
        folder: of the predictions.
        run: content of run.json, a dict.
        records: list of the contents of STEM.json, in the order to show.
    """
    with writers.text_file(os.path.join(folder, 'summary.csv')) as file:
        writer = csv.DictWriter(file, COLUMNS, restval='',
                                extrasaction='ignore', lineterminator='\n')
        writer.writeheader()
        writer.writerows(map(_row, records))
    with writers.text_file(os.path.join(folder, 'index.html')) as file:
        file.write('<!DOCTYPE html>\n<html lang="en">\n<meta charset="utf-8">'
                   f'\n{MARK}\n<meta name="viewport" '
                   'content="width=device-width">\n<title>Nuclei</title>\n'
                   f'<style>{STYLE}</style>\n{_head(run, records)}<main>\n')
        for number, record in enumerate(records):
            file.write(_card(folder, number, record))
        file.write('</main>\n</html>\n')


def _row(record):
    """Return the row of an image in summary.csv, a dict."""
    return {**record, 'error': _error(record),
            'warnings': '; '.join(record.get('warnings', {}).values()),
            'seconds': (round(sum(record['seconds'].values()), 2)
                        if 'seconds' in record else '')}


def _error(record):
    """Say what of an image could not be read, maybe ''."""
    return record.get('error') or summary.unread_of(record)


def _head(run, records):
    """Say what was asked for and found in all, and link what is to look at."""
    whole = [record for record in records if 'nuclei' in record]
    nuclei, mm2 = (sum(record[name] or 0 for record in whole)
                   for name in ('nuclei', 'mm2'))
    unread = len(records) - len(whole)
    found = {'images': f'{len(records)}' + (
        f', {unread} of them not read' if unread else ''), 'nuclei': nuclei}
    # The mm2 of a slide are those of its tissue.
    if mm2 and all(record['mm2'] for record in whole) and len({
            record['is_slide'] for record in whole}) == 1:
        found.update({'mm2': f'{mm2:.4g}', 'per mm2': f'{nuclei / mm2:.0f}'})
    asked = {'network': run['model_folder'] or '',
             'settings': ', '.join(
                 f'{name} {value}' for name, value in run['settings'].items()
                 if value is not None and name != 'version'),
             'command': ' '.join(run['command'])}
    flawed = [(number, kind, text) for number, record in enumerate(records)
              for kind, text in _flaws(record)]
    lines = ['<h1>Nuclei</h1>', _list(found), _list(asked),
             '<p><a href="summary.csv">summary.csv</a>: this page as a table']
    if flawed:
        lines += ['<ul>', *(
            f'<li class="{kind}"><a href="#i{number}">'
            f'{escape(records[number]["image"])}</a>: {escape(text)}'
            for number, kind, text in flawed), '</ul>']
    return '\n'.join(lines) + '\n'


def _flaws(record):
    """List the warnings and errors of an image as (kind, text)."""
    error = _error(record)
    return ([('error', error)] if error else []) + [
        ('warning', text) for text in record.get('warnings', {}).values()]


def _card(folder, number, record):
    """Return what the page has of an image: thumbnail, numbers and links."""
    links = {}
    if 'nuclei' in record:
        for output, (endings, _) in writers.results_of(
                record['is_slide']).items():
            for name in [record['stem'] + ending for ending in endings]:
                if os.path.exists(os.path.join(folder, name)):
                    links[output] = name
    thumbnail = links.pop('thumbnail', None)
    lines = [f'<article id="i{number}">']
    if thumbnail:
        target = links.get('overlay', links.get('overview', thumbnail))
        lines.append(f'<a href="{_link(target)}"><img loading="lazy" alt="" '
                     f'src="{_link(thumbnail)}"></a>')
    lines.append(f'<h2>{escape(record["image"])}</h2>')
    if 'nuclei' in record:
        density = record['mean_haematoxylin_od']
        lines.append(f'<p>{escape(summary.line_of(record))}' + (
            '' if density is None else f', haematoxylin OD {density:.2f}'))
    lines += [f'<p class="{kind}">{escape(text)}'
              for kind, text in _flaws(record)]
    if links:
        lines.append('<p>' + ' \u00b7 '.join(
            f'<a href="{_link(name)}">{output.replace("_", " ")}</a>'
            for output, name in links.items()))
    return '\n'.join(lines) + '\n</article>\n'


def _list(values):
    return '<dl>' + ''.join(
        f'<dt>{escape(name)}<dd>{escape(str(value))}'
        for name, value in values.items()) + '</dl>'


def _link(name):
    return escape(urllib.parse.quote(os.fsencode(name)))
